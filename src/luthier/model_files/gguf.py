"""GGUF files, what llama.cpp opens: model, tokenizer and chat template in one file."""

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
from luthier.model_files.weights import Opened, Watch, layout_of, read_weights, silent, written
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf

FORMAT = "gguf"
OF_DTYPE = {torch.float64: "F32", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # of "general.file_type"
BLOCK = 32  # numbers, of Q8_0 and Q4_0
WHOLE = (
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "rope_freqs.weight",
    "_norm.weight",
    ".bias",
)  # llama.cpp wants these in F32
OUTER = ("token_embd.weight", "output.weight")


def recognizes(path: Path) -> bool:
    """Whether a path is such a file, whatever its name."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # `read` then says why
        return path.suffix == ".gguf"


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """The model in a file. dtype: unless given that of the file's embedding, and bfloat16 where tensors are quantized.

    Raises a LuthierError that names what is broken, unsupported, missing, unknown or of another shape.
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
    return Opened(model, config, tokenizer)


def write(path: Path, opened: Opened, watch: Watch = silent, *, quantize: str | None = None) -> None:
    """Write a file, with the tokenizer and its chat template. It appears in one go at the end.

    quantize: the number type of the matrices, "F32", "F16", "BF16", "Q8_0" or "Q4_0"; that of the model if not given.
    What llama.cpp keeps in F32 stays so: vectors, routers and learned positions. In Q4_0 files the embedding and the
    output matrix are Q8_0, and where rows are no multiple of 32 a quantized matrix is F16.
    """
    model, config, tokenizer = opened
    wanted = (quantize or OF_DTYPE[model.embedding.weight.dtype]).upper()
    if wanted not in FILE_TYPES:
        raise UsageError(f"quantize '{quantize}' is not to be had; there are {', '.join(FILE_TYPES)}")
    names = registry.format_spec(config, FORMAT)
    table = names.tensors(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in layout_of(table, model).items()}
    layout = {name: (number_type(name, shape, wanted), shape) for name, shape in shapes.items()}
    settings = {
        **names.settings.write(config),
        "general.type": "model",
        "general.file_type": FILE_TYPES[wanted],
        "general.quantization_version": 2,
        **({"tokenizer.ggml.model": "none"} if tokenizer is None else to_gguf(tokenizer, config.vocab_size)),
    }
    gguf_writing.write(path, settings, layout, written(table, model, watch))


def caveats(config: Config) -> list[str]:
    """What llama.cpp would compute in another way than the model does, in words for people. Mostly nothing."""
    return registry.format_spec(config, FORMAT).caveats(config)


def table_of(config: Config) -> Table:
    """The names of a model's tensors in such a file."""
    return registry.format_spec(config, FORMAT).tensors(config)


def number_type(name: str, shape: Shape, wanted: str) -> str:
    """The number type of one tensor in a file of a type."""
    if len(shape) == 1 or name.endswith(WHOLE):
        return "F32"
    if wanted not in ("Q8_0", "Q4_0"):
        return wanted
    if shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if name in OUTER else wanted


def read_config(settings: Mapping[str, Any], checkpoint: Checkpoint) -> Config:
    """The Config that a file's settings, and its tensors, say."""
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
