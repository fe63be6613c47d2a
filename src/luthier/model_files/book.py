""".pth files of the GPTModel in "Build a Large Language Model (From Scratch)" and courses based on it.

torch.save(model.state_dict(), "model.pth"), or a checkpoint with the weights under "model_state_dict". The number of
heads is not in the file: head_dim is assumed to be 64, as in all of GPT-2's sizes. Otherwise a file of the same name
ending in .json must be beside it, with the book's settings or only {"n_heads": 4}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import gpt2
from luthier.architectures.config_json import WRAPPERS
from luthier.architectures.settings import ShapesOnly, WeightInfo
from luthier.errors import LuthierError
from luthier.files.json_files import read_json
from luthier.formats.pth_files import PthFile
from luthier.formats.weight_table import Shape, Table, names_without_prefixes
from luthier.model_files.weights import LoadedModel, read_weights
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.gpt2 import gpt2 as gpt2_tokenizer

SUFFIXES = (".pth", ".pt")
GPT2_VOCABULARY = 50_257
SPEC = gpt2.FAMILY.formats["book"]


def recognizes(path: Path) -> bool:
    """Whether a path looks like a .pth file."""
    return path.suffix in SUFFIXES and path.is_file()


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a file, with GPT-2's tokenizer if the vocabulary has its size. dtype: that of the file unless given.

    Raises a LuthierError that names what is missing, unknown or of the wrong shape, or what code the file tried to run.
    """
    if (path.parent / "params.json").is_file():
        raise LuthierError(f"{path} is a part of one of Meta's models: open its folder, {path.parent}")
    checkpoint, settings = PthFile(path), path.with_suffix(".json")
    values = read_json(settings) if settings.is_file() else {}
    try:
        config = read_config(checkpoint.shapes(), values, tied=is_tied(checkpoint), file=settings.name)
        model = read_weights(checkpoint, SPEC.tensors(config), config, device, dtype)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    return LoadedModel(model, config, tokenizer_of(config))


def read_config(shapes: Mapping[str, Shape], settings: Mapping[str, Any], *, tied: bool, file: str) -> gpt2.Config:
    """The Config of the weights with these shapes.

    settings: the book's dict of this model, GPT_CONFIG_124M, or part of it. file: its name, for errors. tied: whether
    the output matrix equals the embedding.
    """
    return SPEC.settings.read(settings, WeightInfo(ShapesOnly(shapes), tied=tied), source=file)


def is_tied(checkpoint: PthFile) -> bool:
    """Whether the output matrix equals the embedding. The book's files have both, even for OpenAI's weights."""
    names = names_without_prefixes(Table([], WRAPPERS), checkpoint.tensors)
    embedding, output = (checkpoint.tensors.get(names.get(name, "")) for name in ("tok_emb.weight", "out_head.weight"))
    return embedding is not None and output is not None and embedding.shape == output.shape and embedding.equal(output)


def tokenizer_of(config: gpt2.Config) -> Tokenizer | None:
    """GPT-2's tokenizer, if the vocabulary has its size and its files are available."""
    if config.vocab_size != GPT2_VOCABULARY:
        return None
    try:
        return gpt2_tokenizer()
    except LuthierError:  # no network: the model is usable without
        return None
