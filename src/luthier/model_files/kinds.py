"""All kinds of file that a model comes in: telling them apart, and opening and saving each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from luthier.errors import LuthierError, UsageError, remark
from luthier.model_files import book, gguf, hugging_face, meta, nanochat, openai
from luthier.model_files.refusals import check_files, refusal
from luthier.model_files.weights import Opened, Watch, silent

READERS: tuple[ModuleType, ...] = (hugging_face, gguf, meta, openai, nanochat, book)
FORMATS = ("hf", "gguf", "meta")  # that can be written


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """Open a model, whatever the kind. Raises a LuthierError that says what opens, or what is wrong with the file."""
    check_files(path)
    reader = next((reader for reader in READERS if reader.recognizes(path)), None)
    if reader is None:
        raise refusal(path)
    opened: Opened = reader.read(path, device, dtype)
    check_tokens(path, opened)
    return opened


def check_tokens(path: Path, opened: Opened) -> None:
    """Each token must have its row of the embedding. A padding token alone may have none: it is never read."""
    _, config, tokenizer = opened
    if tokenizer is None or tokenizer.vocab_size <= config.vocab_size:
        return
    if tokenizer.vocab_size == config.vocab_size + 1 and tokenizer.pad_id == config.vocab_size:
        remark(
            f"{path}: the padding token {tokenizer.pad_id} is beyond the model's {config.vocab_size} tokens: it cannot "
            "stand in a text"
        )
        return
    raise LuthierError(f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model knows {config.vocab_size}")


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
