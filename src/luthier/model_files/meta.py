"""Meta's model folders: params.json, consolidated.NN.pth (one or several shards) and tokenizer.model.

Reads Llama 2 to 3.3 and Llama 4's language model. Writes one consolidated.00.pth, params.json, and the tokenizer as
tokenizer.json with tokenizer_config.json, which Luthier prefers; also a tokenizer.model for Meta's code if the
tokenizer's type is that of Llama 2, 3 or 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.architectures.family import Config, FormatSpec
from luthier.architectures.params_json import text_model_settings
from luthier.architectures.settings import WeightInfo
from luthier.errors import LuthierError, UsageError
from luthier.files.atomic_folder import replacing
from luthier.files.json_files import read_json, write_json
from luthier.formats import pth_files
from luthier.formats.pth_files import PthFile
from luthier.formats.shards import Shards
from luthier.formats.weight_table import to_external
from luthier.model_files.unsupported_paths import MISTRAL
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
from luthier.tokenizers.formats.sentencepiece_writing import sentencepiece_file
from luthier.tokenizers.formats.tiktoken_writing import tiktoken_file
from luthier.tokenizers.load import load as load_tokenizer

FORMAT = "meta"
PARAMS = "params.json"
SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
SINGLE = "consolidated.pth"  # in some of Llama 4's folders
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


def recognizes(path: Path) -> bool:
    """Whether a path looks like Meta's model folder."""
    return (path / PARAMS).is_file() and any(path.glob("consolidated*.pth"))


def read(folder: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a folder. dtype: that of the file unless given.

    Raises a LuthierError that names what is unsupported, missing, unknown or of the wrong shape.
    """
    params = read_json(folder / PARAMS)
    parts = [PthFile(folder / name) for name in shard_names(folder)]
    try:
        if is_mistral(params):
            raise LuthierError(f"this {MISTRAL}")
        config = read_config(params, vocab_size=vocab_size(parts), tied=is_tied(parts))
        names = registry.format_spec(config, FORMAT)
        table = names.tensors(config)
        whole = {
            name: tuple(tensor.shape)
            for name, tensor in to_external(table, registry.build_on_meta(config).state_dict())
        }
        model = read_weights(Shards(parts, whole, names.row_groups(config)), table, config, device, dtype)
    except LuthierError as error:
        raise LuthierError(f"{folder}: {error}") from None
    found = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return LoadedModel(model, config, load_tokenizer(folder) if found else None)


def read_config(params: Mapping[str, Any], *, vocab_size: int, tied: bool) -> Config:
    """The Config of a params.json.

    vocab_size: rows of the embedding; in sharded models the file has a shard's. tied: whether the output matrix equals
    the embedding: Meta's files have both, even for tied models.
    """
    config: Config = spec_for(params).settings.read(params, WeightInfo(vocab_size=vocab_size, tied=tied))
    return config


def spec_for(params: Mapping[str, Any]) -> FormatSpec[Any]:
    """The FormatSpec of the family of a params.json. The family without distinctive keys is the default."""
    values = text_model_settings(params).values
    specs = sorted(registry.families_with(FORMAT).values(), key=lambda spec: not spec.distinctive_keys)
    return next(
        spec for spec in specs if not spec.distinctive_keys or any(key in values for key in spec.distinctive_keys)
    )


def is_mistral(params: Mapping[str, Any]) -> bool:
    """Whether a params.json is Mistral's, which has the `hidden_dim` that is computed in Meta's format."""
    return "hidden_dim" in params and "multiple_of" not in params


def shard_names(folder: Path) -> list[str]:
    """File names of the shards in order. Raises a LuthierError if one is missing in between."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    found = {int(match[1]): path.name for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    if missing := [number for number in range(max(found, default=0) + 1) if number not in found]:
        raise LuthierError(f"{folder / f'consolidated.{missing[0]:02}.pth'} is missing")
    return [found[number] for number in sorted(found)]


def vocab_size(parts: list[PthFile]) -> int:
    """Rows of the output matrix, which all of Meta's models shard by rows."""
    shape = parts[0].shapes().get(OUTPUT, ())
    if len(shape) != 2:
        raise LuthierError(f"'{OUTPUT}' is missing or not a matrix")
    return shape[0] * len(parts)


def is_tied(parts: list[PthFile]) -> bool:
    """Whether the output matrix equals the embedding. The first row is compared first, for speed."""
    pairs = [(part.tensors.get(EMBEDDING), part.tensors[OUTPUT]) for part in parts if OUTPUT in part.tensors]
    return all(
        embedding is not None
        and embedding.shape == output.shape
        and embedding[:1].equal(output[:1])
        and embedding.equal(output)
        for embedding, output in pairs
    )


def write(folder: Path, opened: LoadedModel, progress: ProgressCallback = no_progress) -> None:
    """Write a folder atomically, with weights in their dtype in one file.

    Settings that Meta's format lacks (see architectures/params_json.py) are read by Luthier and ignored by Meta's code.
    """
    model, config, tokenizer = opened
    names = registry.format_spec(config, FORMAT)
    if (folder / "config.json").is_file():  # it would still be opened as that model
        raise UsageError(f"{folder} holds a Hugging Face model: write Meta's format into another folder")
    table = names.tensors(config)
    with replacing(folder, stale=("consolidated*.pth", *TOKENIZER_FILES, *STALE), last=PARAMS) as staging:
        write_json(staging / PARAMS, names.settings.write(config))
        write_json(staging / "generation_config.json", token_ids(tokenizer, config.vocab_size))
        pth_files.write(
            staging / "consolidated.00.pth", external_layout(table, model), external_tensors(table, model, progress)
        )
        if tokenizer is not None:
            tokenizer.save(staging)
            if for_meta := tiktoken_file(tokenizer) or sentencepiece_file(tokenizer):
                (staging / "tokenizer.model").write_bytes(for_meta)
