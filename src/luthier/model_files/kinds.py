"""All kinds of file that a model comes in: telling them apart, and opening and saving each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from luthier.errors import LuthierError, UsageError
from luthier.model_files import book, gguf, hugging_face, meta, openai
from luthier.model_files.weights import Opened, Watch, silent

READERS: tuple[ModuleType, ...] = (hugging_face, gguf, meta, openai, book)
FORMATS = ("hf", "gguf", "meta")  # that can be written
OPENS = (
    "what opens is a training run, a folder of Hugging Face's (config.json, model.safetensors), Meta's (params.json, "
    "consolidated.00.pth) or OpenAI's (hparams.json, model.ckpt.index), a .gguf file, a .pth file of the book, "
    "or hf:ORG/NAME"
)


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


def write(
    path: Path, opened: Opened, format: str, watch: Watch = silent, *, quantize: str | None, shard_bytes: int
) -> None:
    """Save a model in a format, by its short name."""
    if quantize and format != "gguf":
        raise UsageError(f"quantize is for the format gguf, not for {format}")
    match format:
        case "hf":
            hugging_face.write(path, opened, watch, shard_bytes=shard_bytes)
        case "gguf":
            gguf.write(path, opened, watch, quantize=quantize)
        case "meta":
            meta.write(path, opened, watch)
        case _:
            raise UsageError(f"no format '{format}'; there are {', '.join(FORMATS)}")
