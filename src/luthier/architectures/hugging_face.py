"""Hugging Face model folders, what `transformers` opens and saves: config.json and safetensors to a model and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.architectures import registry
from luthier.architectures.registry import NAMES, Config
from luthier.errors import LuthierError
from luthier.formats import names, safetensors_files
from luthier.formats.json_files import read_json, write_json
from luthier.formats.safetensors_files import SafetensorsFolder
from luthier.model.transformer import Transformer

CONFIG = "config.json"
WEIGHTS = ("model*.safetensors", safetensors_files.INDEX)  # patterns of the files with weights


def is_model(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / CONFIG).is_file() and safetensors_files.has_weights(folder)


def read(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Transformer, Config]:
    """The model in a folder, its weights mapped where they need no conversion. dtype: that of the file unless given.

    Raises a LuthierError that names what is unsupported, missing, unknown or of another shape.
    """
    values, checkpoint = read_json(folder / CONFIG), SafetensorsFolder(folder)
    try:
        config = read_config(values)
        model = registry.build_on_meta(config)
        registry.assign(model, dict(read_weights(checkpoint, config, model, device, dtype)))
    except LuthierError as error:
        raise LuthierError(f"{folder}: {error}") from None
    return model, config


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Nothing that it says is executed: `auto_map` is not looked at."""
    if values.get("quantization_config") is not None:
        raise LuthierError("config.json: weights quantised for transformers cannot be read; take the original model")
    classes = values.get("architectures")
    asked = classes[0] if isinstance(classes, list) and classes else values.get("model_type")
    known = {name: module for module in NAMES.values() for pair in module.HUGGING_FACE.items() for name in pair}
    if not isinstance(asked, str) or asked not in known:
        raise LuthierError(f"config.json: no architecture {asked!r:.60}; there are {', '.join(known)}")
    config: Config = known[asked].from_hugging_face(values)
    return config


def read_weights(
    checkpoint: names.Checkpoint, config: Config, model: Transformer, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a checkpoint by our names, one at a time. All take the dtype of the first, the embedding."""
    for name, tensor in names.to_ours(name_table(config), checkpoint, model.state_dict()):
        dtype = dtype or tensor.dtype
        yield name, tensor.to(device, dtype)


def write(folder: Path, model: Transformer, config: Config, token_ids: Mapping[str, Any], shard_bytes: int) -> None:
    """Write config.json, generation_config.json and the weights, in their dtype, one tensor at a time.

    token_ids: what the tokenizer says, as in "eos_token_id"; it stands in both files.
    """
    weights = model.state_dict()
    shapes = {name: weight.to("meta") for name, weight in weights.items()}
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    settings = registry.names_of(config).to_hugging_face(config)
    write_json(folder / CONFIG, {**settings, "dtype": dtype, **token_ids})
    write_json(folder / "generation_config.json", token_ids)
    table = name_table(config)
    layout = dict(names.to_theirs(table, shapes))
    safetensors_files.write(folder, layout, names.to_theirs(table, weights), shard_bytes)


def name_table(config: Config) -> names.Table:
    """The names of a model's weights in such a folder."""
    table: names.Table = registry.names_of(config).hugging_face(config)
    return table
