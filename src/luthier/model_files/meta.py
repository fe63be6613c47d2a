"""Meta's model folders: params.json, consolidated.NN.pth (one or several shards) and tokenizer.model.

Read: Llama 2 to 3.3 and Llama 4's text part. Written: one consolidated.00.pth, params.json, and the tokenizer as
tokenizer.json with tokenizer_config.json, which are preferred here; beside them a tokenizer.model for Meta's programs,
where the tokenizer is of the kind of Llama 2, 3 or 4.
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
from luthier.model_files.refusals import MISTRAL
from luthier.model_files.weights import Opened, Watch, layout_of, read_weights, silent, token_ids, written
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
    """Whether a path looks like such a folder."""
    return (path / PARAMS).is_file() and any(path.glob("consolidated*.pth"))


def read(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """The model in a folder. dtype: that of the file unless given.

    Raises a LuthierError that names what is unsupported, missing, unknown or of another shape.
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
    return Opened(model, config, load_tokenizer(folder) if found else None)


def read_config(params: Mapping[str, Any], *, vocab_size: int, tied: bool) -> Config:
    """The Config of a params.json.

    vocab_size: rows of the embedding; in sharded models the file holds that of a part. tied: whether the output matrix
    equals the embedding: Meta's files have both, also of models that have one.
    """
    config: Config = names_in(params).settings.read(params, WeightInfo(vocab_size=vocab_size, tied=tied))
    return config


def names_in(params: Mapping[str, Any]) -> FormatSpec[Any]:
    """The FormatSpec of the family of a params.json. The family without distinctive keys is the default."""
    values = text_model_settings(params).values
    specs = sorted(registry.families_with(FORMAT).values(), key=lambda spec: not spec.distinctive_keys)
    return next(
        spec for spec in specs if not spec.distinctive_keys or any(key in values for key in spec.distinctive_keys)
    )


def is_mistral(params: Mapping[str, Any]) -> bool:
    """Whether a params.json is one of Mistral's: it says the width that Meta's leave to be computed."""
    return "hidden_dim" in params and "multiple_of" not in params


def shard_names(folder: Path) -> list[str]:
    """The shards in order. Raises a LuthierError where one is missing in between."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    found = {int(match[1]): path.name for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    if missing := [number for number in range(max(found, default=0) + 1) if number not in found]:
        raise LuthierError(f"{folder / f'consolidated.{missing[0]:02}.pth'} is missing")
    return [found[number] for number in sorted(found)]


def vocab_size(parts: list[PthFile]) -> int:
    """The rows of the output matrix, which all of Meta's models cut along them."""
    shape = parts[0].shapes().get(OUTPUT, ())
    if len(shape) != 2:
        raise LuthierError(f"'{OUTPUT}' is missing or no matrix")
    return shape[0] * len(parts)


def is_tied(parts: list[PthFile]) -> bool:
    """Whether the output matrix is the embedding, number by number. Most are told apart by their first row."""
    pairs = [(part.tensors.get(EMBEDDING), part.tensors[OUTPUT]) for part in parts if OUTPUT in part.tensors]
    return all(
        embedding is not None
        and embedding.shape == output.shape
        and embedding[:1].equal(output[:1])
        and embedding.equal(output)
        for embedding, output in pairs
    )


def write(folder: Path, opened: Opened, watch: Watch = silent) -> None:
    """Write a folder, the weights in their dtype and in one file.

    The folder changes in one go at the end: an error on the way leaves it as it was. What Meta's settings have no words
    for (see architectures/params_json.py) is read back by us and not seen by Meta's programs.
    """
    model, config, tokenizer = opened
    names = registry.format_spec(config, FORMAT)
    if (folder / "config.json").is_file():  # it would still be opened as that model
        raise UsageError(f"{folder} holds a Hugging Face model: write Meta's format into another folder")
    table = names.tensors(config)
    with replacing(folder, stale=("consolidated*.pth", *TOKENIZER_FILES, *STALE), last=PARAMS) as staging:
        write_json(staging / PARAMS, names.settings.write(config))
        write_json(staging / "generation_config.json", token_ids(tokenizer, config.vocab_size))
        pth_files.write(staging / "consolidated.00.pth", layout_of(table, model), written(table, model, watch))
        if tokenizer is not None:
            tokenizer.save(staging)
            if for_meta := tiktoken_file(tokenizer) or sentencepiece_file(tokenizer):
                (staging / "tokenizer.model").write_bytes(for_meta)
