"""Models on the Hugging Face hub, by name: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION`, or one file, `hf:ORG/NAME/FILE.gguf`.

Needs the extra `hub`. Files are stored in `huggingface_hub`'s cache (HF_HOME); with HF_HUB_OFFLINE=1 only cached files
are used. Files that could contain code are never downloaded: no pickles, no Python.
"""

from __future__ import annotations

import re
from pathlib import Path

from luthier.errors import LuthierError, UsageError

PREFIX = "hf:"
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[\w./-]+\.gguf))?(@(?P<revision>[\w./-]+))?", re.ASCII)
WANTED: tuple[str, ...] = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
)
WANTED += ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
WANTED += ("tokenizer.model", "vocab.json", "merges.txt")


def fetch(name: str) -> Path:
    """The local folder or .gguf file of a name `hf:...`, downloaded unless it is cached.

    Raises a LuthierError if the hub has no such model or cannot be reached.
    """
    found = NAME.fullmatch(name.removeprefix(PREFIX))
    parts = [part for text in found.groupdict().values() for part in (text or "").split("/")] if found else []
    if found is None or ".." in parts or "." in parts:
        raise UsageError(
            f"'{name}' is not a name on the hub: hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME/FILE.gguf"
        )
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError:
        raise LuthierError(f"'{name}' needs the extra hub: pip install 'luthier[hub]'") from None
    repo, file, revision = found["repo"], found["file"], found["revision"]
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        if file:
            return Path(hf_hub_download(repo, file, revision=revision))
        # patterns also match in subfolders, where repositories keep other formats of the same weights
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED), ignore_patterns=["*/*"]))
    except LocalEntryNotFoundError:
        raise LuthierError(
            f"{name}: the hub cannot be reached and the model is not on this machine: "
            "try again with a network, or give a folder or file of your own"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        raise LuthierError(f"{name}: the hub has no such model or file; if it is private, set HF_TOKEN") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise LuthierError(f"{name}: {reason or type(error).__name__}") from None
