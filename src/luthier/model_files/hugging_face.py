"""Hugging Face model folders, what `transformers` opens and saves.

config.json, generation_config.json, model.safetensors (or shards with an index), tokenizer.json, tokenizer_config.json.
A training run is such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from luthier.architectures import registry
from luthier.architectures.names.hugging_face import gpt2, llama, llama4
from luthier.architectures.registry import Config
from luthier.errors import LuthierError
from luthier.files.atomic_folder import replacing
from luthier.files.json_files import read_json, write_json
from luthier.formats import safetensors_files
from luthier.formats.safetensors_files import SHARD_BYTES, SafetensorsFolder
from luthier.model_files.weights import Opened, Watch, layout_of, read_weights, silent, token_ids, written
from luthier.tokenizers.core.tokenizer import STALE
from luthier.tokenizers.load import load as load_tokenizer

NAMES: dict[str, ModuleType] = {"gpt2": gpt2, "llama": llama, "llama4": llama4}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "encoder.json")
CONFIG = "config.json"
WEIGHTS = ("model*.safetensors", safetensors_files.INDEX)  # patterns of the files with weights


def recognises(path: Path) -> bool:
    """Whether a path looks like such a folder."""
    return (path / CONFIG).is_file() and safetensors_files.has_weights(path)


def read(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """The model in a folder. dtype: that of the file unless given.

    Raises a LuthierError that names what is unsupported, missing, unknown or of another shape.
    """
    values, checkpoint = read_json(folder / CONFIG), SafetensorsFolder(folder)
    try:
        config = read_config(values)
        model = read_weights(checkpoint, names_of(config).table(config), config, device, dtype)
    except LuthierError as error:
        raise LuthierError(f"{folder}: {error}") from None
    found = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return Opened(model, config, load_tokenizer(folder) if found else None)


def write(folder: Path, opened: Opened, watch: Watch = silent, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder, the weights in their dtype and in files of at most `shard_bytes`.

    The folder changes in one go at the end: an error on the way leaves it as it was.
    """
    model, config, tokenizer = opened
    names, ids = names_of(config), token_ids(tokenizer)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    with replacing(folder, stale=(*WEIGHTS, *STALE), last=CONFIG) as staging:
        write_json(staging / CONFIG, {**names.write_config(config), "dtype": dtype, **ids})
        write_json(staging / "generation_config.json", ids)
        table = names.table(config)
        safetensors_files.write(staging, layout_of(table, model), written(table, model, watch), shard_bytes)
        if tokenizer is not None:
            tokenizer.save(staging)


def names_of(config: Config) -> ModuleType:
    """The module with the names that weights and settings have in such a folder."""
    return NAMES[registry.name_of(config)]


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Nothing that it says is executed: `auto_map` is not looked at."""
    if values.get("quantization_config") is not None:
        raise LuthierError("config.json: weights quantised for transformers cannot be read; take the original model")
    classes = values.get("architectures")
    asked = classes[0] if isinstance(classes, list) and classes else values.get("model_type")
    known = {name: module for module in NAMES.values() for pair in module.CLASSES.items() for name in pair}
    if not isinstance(asked, str) or asked not in known:
        raise LuthierError(f"config.json: no architecture {asked!r:.60}; there are {', '.join(known)}")
    config: Config = known[asked].read_config(values)
    return config
