"""Trainer state without weights, as safetensors and JSON, for exact resumption."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.files.sealed_json import is_intact, sealed
from luthier.training.distributed import distribute_like

TENSORS = "training_state.safetensors"
RECORD = "training_state.json"


def write_state(folder: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write both into a temporary folder that holds the weights.

    The record gets the sha256 of every file there and a checksum of its own contents. These are the only protection
    against bit flips: safetensors and JSON load corrupted data without an error.
    """
    copies = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(copies, folder / TENSORS)
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    text = json.dumps(sealed({**record, "sha256": digests}), indent=1)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read both. Raises a LuthierError that names a missing, damaged or foreign file of the folder."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if not is_intact(record):
            raise LuthierError(
                f"{folder} cannot be resumed: {RECORD} is damaged (its checksum is not that of its contents)"
            )
        digests = record["sha256"]
        for name in (TENSORS, *digests):
            if Path(name).name != name or sha256(folder / name) != digests[name]:
                raise LuthierError(f"{folder} cannot be resumed: {name} is damaged")
        for path in folder.iterdir():  # a second file of weights, or an index, would change what is loaded
            if path.suffix in (".json", ".safetensors") and path.name not in {RECORD, *digests}:
                raise LuthierError(f"{folder} cannot be resumed: {path.name} was not written with it")
        return safetensors.torch.load_file(folder / TENSORS), record
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "is missing" if missing else f"cannot be read ({error.strerror})"
        raise LuthierError(f"{folder} cannot be resumed: {Path(error.filename).name} {what}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
        raise LuthierError(f"{folder} cannot be resumed: {RECORD} is damaged") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimizer state tensors of every weight, by flat names: "optimizer.0.17.exp_avg"."""
    return {
        f"optimizer.{index}.{weight}.{key}": value
        for index, optimizer in enumerate(optimizers)
        for weight, memory in optimizer.state_dict()["state"].items()
        for key, value in memory.items()
    }


def restore_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restore the optimizer state; hyperparameters stay as the optimizers were built.

    Raises a LuthierError when it is the state of another optimizer, or of other weights.
    """
    found = dict.fromkeys(name for name in tensors if name.startswith("optimizer."))
    for index, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        memory: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in found if name.startswith(f"optimizer.{index}.")]:
            del found[name]
            number, _, key = name.removeprefix(f"optimizer.{index}.").partition(".")
            weight, value = int(number), tensors[name]
            if weight >= len(parameters) or (value.ndim and value.shape != parameters[weight].shape):
                raise LuthierError(f"the optimizer's state is that of other weights or of another optimizer ({name})")
            memory.setdefault(weight, {})[key] = distribute_like(value, parameters[weight]) if value.ndim else value
        optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
    if found:
        raise LuthierError(
            f"the optimizer's state is that of other weights or of another optimizer ({next(iter(found))})"
        )
