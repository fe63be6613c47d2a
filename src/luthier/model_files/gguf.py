"""GGUF files (llama.cpp): model, tokenizer and chat template in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.architectures.settings import WeightInfo
from luthier.errors import LuthierError, UsageError
from luthier.formats import gguf_writing
from luthier.formats.gguf_file import GGUFFile
from luthier.formats.gguf_header import MAGIC
from luthier.formats.weight_table import Checkpoint, Shape, Table
from luthier.model_files.weights import (
    LoadedModel,
    ProgressCallback,
    external_layout,
    external_tensors,
    no_progress,
    read_weights,
)
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf

FORMAT = "gguf"
TYPE_OF_DTYPE = {torch.float64: "F32", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # of "general.file_type"
BLOCK = 32  # numbers, of Q8_0 and Q4_0
KEPT_IN_F32 = (
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "rope_freqs.weight",
    "_norm.weight",
    ".bias",
)  # llama.cpp wants these in F32
OUTER = ("token_embd.weight", "output.weight")


def recognizes(path: Path) -> bool:
    """Whether a path is a GGUF file, whatever its name."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # `read` then raises the error
        return path.suffix == ".gguf"


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a file. dtype: that of the file's embedding unless given, bfloat16 if tensors are quantized.

    Raises a LuthierError that names what is broken, unsupported, missing, unknown or of the wrong shape.
    """
    file = GGUFFile(path, dtype or torch.bfloat16)
    if dtype is None and file.is_quantized():
        dtype = torch.bfloat16
    try:
        config = read_config(file.fields, file)
        model = read_weights(file, table_of(config), config, device, dtype)
        tokenizer = from_gguf(file.fields)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    return LoadedModel(model, config, tokenizer)


def write(
    path: Path, opened: LoadedModel, progress: ProgressCallback = no_progress, *, quantize: str | None = None
) -> None:
    """Write a file atomically, with the tokenizer and its chat template.

    quantize: type of the matrices, "F32", "F16", "BF16", "Q8_0" or "Q4_0"; the model's dtype unless given. As in
    llama.cpp, vectors, routers and learned positions are F32. In Q4_0 files the embedding and the output matrix are
    Q8_0, and matrices whose rows are not a multiple of 32 are F16.
    """
    model, config, tokenizer = opened
    wanted = (quantize or TYPE_OF_DTYPE[model.embedding.weight.dtype]).upper()
    if wanted not in FILE_TYPES:
        raise UsageError(f"quantize '{quantize}' is not supported; there are {', '.join(FILE_TYPES)}")
    names = registry.format_spec(config, FORMAT)
    table = names.tensors(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in external_layout(table, model).items()}
    layout = {name: (number_type(name, shape, wanted), shape) for name, shape in shapes.items()}
    settings = {
        **names.settings.write(config),
        "general.type": "model",
        "general.file_type": FILE_TYPES[wanted],
        "general.quantization_version": 2,
        **({"tokenizer.ggml.model": "none"} if tokenizer is None else to_gguf(tokenizer, config.vocab_size)),
    }
    gguf_writing.write(path, settings, layout, external_tensors(table, model, progress))


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model; usually none."""
    return registry.format_spec(config, FORMAT).caveats(config)


def table_of(config: Config) -> Table:
    """The weight table of a model in GGUF."""
    return registry.format_spec(config, FORMAT).tensors(config)


def number_type(name: str, shape: Shape, wanted: str) -> str:
    """The type of one tensor in a file whose matrices are `wanted`."""
    if len(shape) == 1 or name.endswith(KEPT_IN_F32):
        return "F32"
    if wanted not in ("Q8_0", "Q4_0"):
        return wanted
    if shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if name in OUTER else wanted


def read_config(settings: Mapping[str, Any], checkpoint: Checkpoint) -> Config:
    """The Config of a file, from its metadata and tensors."""
    if settings.get("split.count", 1) not in (0, 1):
        raise LuthierError("this is one part of several; join them with llama.cpp: llama-gguf-split --merge")
    architecture = settings.get("general.architecture")
    known = [(spec.architecture or family, spec) for family, spec in registry.families_with(FORMAT).items()]
    matching = [spec for name, spec in known if name == architecture]
    if not matching:
        there = ", ".join(dict.fromkeys(name for name, _ in known))
        raise LuthierError(f"no architecture {architecture!r:.60}; there are {there}")
    distinct = (spec for spec in matching if any(settings.get(key) for key in spec.distinctive_keys))
    found = next(distinct, None) or next(spec for spec in matching if not spec.distinctive_keys)
    config: Config = found.settings.read(settings, WeightInfo(checkpoint))
    return config
