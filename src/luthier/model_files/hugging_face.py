"""Hugging Face model folders, as `transformers` loads and saves them.

config.json, generation_config.json, model.safetensors (or shards with an index), tokenizer.json, tokenizer_config.json.
A training run is such a folder. In older folders, pytorch_model.bin is read if there is no model.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.architectures.family import Config, FormatSpec
from luthier.errors import LuthierError, remark
from luthier.files.atomic_folder import replacing
from luthier.files.json_files import read_json, write_json
from luthier.formats import pth_folder, safetensors_files
from luthier.formats.pth_folder import PthFolder
from luthier.formats.safetensors_files import SHARD_BYTES, SafetensorsFolder
from luthier.formats.weight_table import Checkpoint, names_without_prefixes
from luthier.model_files.mxfp4 import UnpackedCheckpoint
from luthier.model_files.unsupported_architectures import unsupported
from luthier.model_files.weights import (
    LoadedModel,
    ProgressCallback,
    external_layout,
    external_tensors,
    no_progress,
    read_weights,
    token_ids,
)
from luthier.tokenizers.core.tokenizer import STALE
from luthier.tokenizers.load import load as load_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "encoder.json")
CONFIG, ADAPTER = "config.json", "adapter_config.json"
# other quantization methods: suffixes of their tensors, and names in config.json, with the programs' names
QUANTIZED_SUFFIXES = {".qweight": "GPTQ or AWQ", ".absmax": "bitsandbytes", ".SCB": "bitsandbytes", ".biases": "MLX"}
QUANTIZERS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8"}
WEIGHTS = ("model*.safetensors", safetensors_files.INDEX)  # patterns of the files with weights


def recognizes(path: Path) -> bool:
    """Whether a path looks like a Hugging Face model folder."""
    return (path / CONFIG).is_file() and (safetensors_files.has_weights(path) or pth_folder.has_weights(path))


def read(folder: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a folder. dtype: that of the file unless given.

    Raises a LuthierError that names what is unsupported, missing, unknown or of the wrong shape.
    """
    values = read_json(folder / CONFIG)
    try:
        config = read_config(values)
        checkpoint = open_weights(folder, values)
        check_not_quantized(checkpoint)
        config = untie_if_different(config, checkpoint)
        model = read_weights(checkpoint, format_spec(config).tensors(config), config, device, dtype)
    except LuthierError as error:
        text = str(error)
        raise LuthierError(text if text.startswith(str(folder)) else f"{folder}: {text}") from None
    if (folder / ADAPTER).is_file():
        remark(f"{folder}: its {ADAPTER} is not read, the model is opened without that adapter")
    found = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return LoadedModel(model, config, load_tokenizer(folder) if found else None)


def open_weights(folder: Path, values: Mapping[str, Any]) -> Checkpoint:
    """Open the weights of a folder. values: its config.json."""
    has_safetensors = safetensors_files.has_weights(folder)
    checkpoint: Checkpoint = SafetensorsFolder(folder) if has_safetensors else PthFolder(folder)
    return UnpackedCheckpoint(checkpoint) if is_mxfp4(values) else checkpoint


def write(
    folder: Path, opened: LoadedModel, progress: ProgressCallback = no_progress, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a folder atomically, with weights in their dtype, in files of at most `shard_bytes`."""
    model, config, tokenizer = opened
    names, ids = format_spec(config), token_ids(tokenizer, config.vocab_size)
    settings = names.settings.write(config)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    with replacing(folder, stale=(*WEIGHTS, *STALE), last=CONFIG) as staging:
        write_json(staging / CONFIG, {**settings, "dtype": dtype, **ids})
        write_json(staging / "generation_config.json", ids)
        table = names.tensors(config)
        safetensors_files.write(
            staging, external_layout(table, model), external_tensors(table, model, progress), shard_bytes
        )
        if tokenizer is not None:
            tokenizer.save(staging)


def untie_if_different(config: Config, checkpoint: Checkpoint) -> Config:
    """The config with untied embeddings if the file has a different output matrix. (transformers does the same.)"""
    if not config.tie_embeddings:
        return config
    table = format_spec(config).tensors(config)
    names = names_without_prefixes(table, checkpoint.shapes())
    [(again, first)] = table.duplicates
    output, embedding = names.get(table.strip_prefixes(again)), names.get(table.strip_prefixes(first))
    if output is None or embedding is None or checkpoint.tensor(output).equal(checkpoint.tensor(embedding)):
        return config
    remark(
        f"config.json says that the output matrix is the embedding, and '{output}' differs from '{embedding}': the "
        "model is opened with both, untied"
    )
    return replace(config, tie_embeddings=False)


def format_spec(config: Config) -> FormatSpec[Config]:
    """The FormatSpec of a config's family for this format."""
    return registry.format_spec(config, "hf")


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Custom code (`auto_map`) is never executed."""
    check_quantization(values)
    known_names = registry.families_with("hf").values()
    types = {kind: names for names in known_names for kind in names.classes.values()}
    classes = {name: names for names in known_names for name in names.classes}
    named, kind = values.get("architectures"), values.get("model_type")
    name = named[0] if isinstance(named, list) and named else None
    known, asked = (types, kind) if kind is not None else (classes, name)
    if not isinstance(asked, str) or asked not in known:
        raise unsupported(asked, kind, types)
    config: Config = known[asked].settings.read(values)
    return config


def check_not_quantized(checkpoint: Checkpoint) -> None:
    """Raise a LuthierError for tensors of quantized weights that config.json does not mention."""
    for name in checkpoint.shapes():
        for ending, whose in QUANTIZED_SUFFIXES.items():
            if name.endswith(ending):
                raise LuthierError(
                    f"'{name:.80}': the weights are quantized by {whose}, which is not read: take the original model, "
                    "or a .gguf file of it"
                )


def is_mxfp4(values: Mapping[str, Any]) -> bool:
    """Whether a config.json says that experts are packed in MXFP4, which is read."""
    found = values.get("quantization_config")
    return isinstance(found, dict) and found.get("quant_method") == "mxfp4"


def check_quantization(values: Mapping[str, Any]) -> None:
    """Raise a LuthierError that names the program for weights that another program quantized."""
    found = values.get("quantization_config") or values.get("quantization")
    if found is None or is_mxfp4(values):
        return
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method is None and values.get("quantization") is not None:
        method = "mlx"
    bits = found.get("bits") if isinstance(found, dict) else None
    whose = {**QUANTIZERS, "mlx": "MLX"}.get(str(method), f"{method!r:.40}" if method else "transformers")
    in_bits = f" in {bits} bits" if type(bits) is int else ""
    raise LuthierError(
        f"config.json: the weights are quantized{in_bits} by {whose}, which is not read: take the original model, or "
        "a .gguf file of it"
    )
