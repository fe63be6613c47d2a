"""Checkpoints of nanochat: model_NNNNNN.pt with meta_NNNNNN.json beside it, as its first published version saves them.

Later versions compute more (value embeddings, gates, windows): their checkpoints are refused, with the tensors that are
not known. The tokenizer lies elsewhere, as a pickle, and is not read: the model opens without one.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from luthier.architectures import nanochat
from luthier.errors import LuthierError, remark
from luthier.files.json_files import read_json
from luthier.formats.pth_files import PthFile
from luthier.model_files.weights import LoadedModel, read_weights

MODEL = re.compile(r"model_(\d{1,9})\.pt")
SPEC = nanochat.FAMILY.formats["nanochat"]
NEWER = ("resid_lambdas", "x0_lambdas", "value_embeds", "smear_gate", "backout_lambda", "ve_gate")


def recognizes(path: Path) -> bool:
    """Whether a path looks like such a file, or a folder of them."""
    return file_of(path) is not None


def file_of(path: Path) -> Path | None:
    """The file of weights: the last one of a folder."""
    files = sorted(path.glob("model_*.pt")) if path.is_dir() else [path]
    found = [file for file in files if MODEL.fullmatch(file.name) and meta_of(file).is_file()]
    return max(found, key=lambda file: int(file.stem.partition("_")[2]), default=None)


def meta_of(file: Path) -> Path:
    """The file of settings beside one of weights."""
    return file.with_name(f"meta_{file.stem.partition('_')[2]}.json")


def read(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    """The model in a file, or in the last one of a folder. dtype: that of most weights in the file unless given.

    Raises a LuthierError that names what is missing, unknown or of another shape.
    """
    file = file_of(path)
    assert file is not None
    values = read_json(meta_of(file)).get("model_config")
    if not isinstance(values, dict):
        raise LuthierError(f"{meta_of(file)}: 'model_config' is missing")
    checkpoint = PthFile(file)
    try:
        if newer := [name for name in checkpoint.shapes() if any(part in name for part in NEWER)]:
            raise LuthierError(
                f"it is of a later nanochat, which computes with '{newer[0]}' and more: only checkpoints of the first "
                "version open"
            )
        config = SPEC.settings.read(values, source=meta_of(file).name)
        kept = dtype or next(weight.dtype for weight in reversed(checkpoint.tensors.values()))
        model = read_weights(checkpoint, SPEC.tensors(config), config, device, kept)
    except LuthierError as error:
        raise LuthierError(f"{file}: {error}") from None
    remark(f"{file}: nanochat's tokenizer is not in it: the model opens without one")
    return LoadedModel(model, config, None)
