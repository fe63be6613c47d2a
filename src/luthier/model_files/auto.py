"""Load and save models in any supported format; on loading, the format is detected."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from luthier.errors import LuthierError, UsageError, remark
from luthier.model_files import book, gguf, hugging_face, meta, nanochat, openai
from luthier.model_files.unsupported_paths import check_files, unsupported_path
from luthier.model_files.weights import LoadedModel, ProgressCallback, no_progress

READERS: tuple[ModuleType, ...] = (hugging_face, gguf, meta, openai, nanochat, book)
FORMATS = ("hf", "gguf", "meta")  # that can be written


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a model of any format. Raises a LuthierError that names the supported ones, or what is wrong with the
    file.
    """
    check_files(path)
    reader = next((reader for reader in READERS if reader.recognizes(path)), None)
    if reader is None:
        raise unsupported_path(path)
    opened: LoadedModel = reader.read(path, device, dtype)
    check_tokens(path, opened)
    return opened


def check_tokens(path: Path, opened: LoadedModel) -> None:
    """Check that each token has an embedding. Only a padding token may have none, since it is never an input."""
    _, config, tokenizer = opened
    if tokenizer is None or tokenizer.vocab_size <= config.vocab_size:
        return
    if tokenizer.vocab_size == config.vocab_size + 1 and tokenizer.pad_id == config.vocab_size:
        remark(
            f"{path}: the padding token {tokenizer.pad_id} is beyond the model's {config.vocab_size} tokens: it cannot "
            "be used as an input"
        )
        return
    raise LuthierError(f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model has {config.vocab_size}")


def write(
    path: Path,
    opened: LoadedModel,
    format: str,
    progress: ProgressCallback = no_progress,
    *,
    quantize: str | None,
    shard_bytes: int,
) -> None:
    """Save a model in a format: "hf", "gguf" or "meta"."""
    if quantize and format != "gguf":
        raise UsageError(f"quantize is for the format gguf, not for {format}")
    match format:
        case "hf":
            hugging_face.write(path, opened, progress, shard_bytes=shard_bytes)
        case "gguf":
            gguf.write(path, opened, progress, quantize=quantize)
        case "meta":
            meta.write(path, opened, progress)
        case _:
            raise UsageError(f"no format '{format}'; there are {', '.join(FORMATS)}")
