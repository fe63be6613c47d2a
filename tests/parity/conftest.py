"""Quiet peers: transformers tells its progress to a person, and warnings are errors here."""

from __future__ import annotations

import os

# read when transformers is imported, which happens in the test modules
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
