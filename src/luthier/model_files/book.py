"""What "Build a Large Language Model (From Scratch)" and the courses after it save: a .pth file with a GPTModel.

torch.save(model.state_dict(), "model.pth"), or the same beside an optimizer under "model_state_dict". The file does not
say how many heads attention has: they are taken to have 64 dimensions, as in all of GPT-2's sizes. A model with others
needs a file of the same name that ends in .json beside it, with the book's settings or {"n_heads": 4} alone.
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
from luthier.model_files.weights import Opened, read_weights
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.gpt2 import gpt2 as gpt2_tokenizer

SUFFIXES = (".pth", ".pt")
GPT2_VOCABULARY = 50_257
NAMES = gpt2.FAMILY.formats["book"]


def recognizes(path: Path) -> bool:
    """Whether a path looks like such a file."""
    return path.suffix in SUFFIXES and path.is_file()


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> Opened:
    """The model in a file, with GPT-2's tokenizer if it has as many tokens. dtype: that of the file unless given.

    Raises a LuthierError that names what is missing, unknown or of another shape, or what code the file wanted to run.
    """
    if (path.parent / "params.json").is_file():
        raise LuthierError(f"{path} is a part of one of Meta's models: open its folder, {path.parent}")
    checkpoint, settings = PthFile(path), path.with_suffix(".json")
    said = read_json(settings) if settings.is_file() else {}
    try:
        config = read_config(checkpoint.shapes(), said, tied=is_tied(checkpoint), file=settings.name)
        model = read_weights(checkpoint, NAMES.tensors(config), config, device, dtype)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    return Opened(model, config, tokenizer_of(config))


def read_config(shapes: Mapping[str, Shape], settings: Mapping[str, Any], *, tied: bool, file: str) -> gpt2.Config:
    """The Config of the weights with these shapes.

    settings: the book's dict of this model, GPT_CONFIG_124M, or part of it. file: its name, for errors. tied: whether
    the output matrix equals the embedding.
    """
    return NAMES.settings.read(settings, WeightInfo(ShapesOnly(shapes), tied=tied), source=file)


def is_tied(checkpoint: PthFile) -> bool:
    """Whether the output matrix is the embedding, number by number. The book has both, also for OpenAI's weights."""
    names = names_without_prefixes(Table([], WRAPPERS), checkpoint.tensors)
    embedding, output = (checkpoint.tensors.get(names.get(name, "")) for name in ("tok_emb.weight", "out_head.weight"))
    return embedding is not None and output is not None and embedding.shape == output.shape and embedding.equal(output)


def tokenizer_of(config: gpt2.Config) -> Tokenizer | None:
    """GPT-2's tokenizer, where the vocabulary is its own and its files can be had."""
    if config.vocab_size != GPT2_VOCABULARY:
        return None
    try:
        return gpt2_tokenizer()
    except LuthierError:  # no network: the model can do without
        return None
