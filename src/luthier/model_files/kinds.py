"""All kinds of file that a model comes in: telling them apart, and opening and saving each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from luthier.errors import LuthierError, UsageError
from luthier.model_files import hugging_face
from luthier.model_files.weights import Opened, Watch, silent

READERS: tuple[ModuleType, ...] = (hugging_face,)
WRITERS: dict[str, ModuleType] = {"hf": hugging_face}
OPENS = "a folder with config.json and model.safetensors opens: a training run, or a Hugging Face model"


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """Open a model, whatever the kind. Raises a LuthierError that says what opens, or what is wrong with the file."""
    if not path.exists():
        raise LuthierError(f"there is no {path}: {OPENS}")
    reader = next((reader for reader in READERS if reader.recognises(path)), None)
    if reader is None:
        raise LuthierError(f"{path} holds no model that can be read: {OPENS}")
    opened: Opened = reader.read(path, device, dtype)
    _, config, tokenizer = opened
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise LuthierError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model knows {config.vocab_size}"
        )
    return opened


def write(path: Path, opened: Opened, format: str, watch: Watch = silent, **options: Any) -> None:
    """Save a model in one of WRITERS' formats; options: what that format's `write` takes by name."""
    if format not in WRITERS:
        raise UsageError(f"no format '{format}'; there is {', '.join(WRITERS)}")
    WRITERS[format].write(path, opened, watch, **options)
