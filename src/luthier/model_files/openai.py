"""OpenAI's GPT-2 folders, as published in 2019 and as `luthier get` downloads them.

hparams.json, encoder.json, vocab.bpe, and a TensorFlow checkpoint: `checkpoint`, a text that names its files,
model.ckpt.index and model.ckpt.data-00000-of-00001.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from luthier.architectures import gpt2
from luthier.errors import LuthierError
from luthier.files.json_files import read_json
from luthier.formats.tensorflow_bundle import TensorFlowBundle
from luthier.model_files.weights import LoadedModel, read_weights
from luthier.tokenizers.load import load as load_tokenizer

SPEC = gpt2.FAMILY.formats["openai"]
HPARAMS = "hparams.json"
TOKENIZER_FILES = ("tokenizer.json", "encoder.json")
NAMED = re.compile(rb'^model_checkpoint_path: "([A-Za-z0-9_.-]+)"', re.MULTILINE)  # a plain name: paths could leave
LARGEST_TEXT = 2**20  # bytes of `checkpoint`


def recognizes(path: Path) -> bool:
    """Whether a path looks like OpenAI's model folder."""
    return (path / HPARAMS).is_file() and any(path.glob("*.index"))


def read(folder: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """Load a folder. dtype: that of the file unless given.

    Raises a LuthierError that names what is missing, unknown, damaged or of the wrong shape.
    """
    try:
        config = SPEC.settings.read(read_json(folder / HPARAMS))
        model = read_weights(TensorFlowBundle(prefix_in(folder)), SPEC.tensors(config), config, device, dtype)
    except LuthierError as error:
        raise LuthierError(f"{folder}: {error}") from None
    found = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return LoadedModel(model, config, load_tokenizer(folder) if found else None)


def prefix_in(folder: Path) -> Path:
    """The path of the checkpoint's files up to ".index": the one that `checkpoint` names, or model.ckpt."""
    text = b""
    if (folder / "checkpoint").is_file():
        with (folder / "checkpoint").open("rb") as file:
            text = file.read(LARGEST_TEXT)
    named = NAMED.search(text)
    return folder / (named[1].decode() if named else "model.ckpt")
