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
from luthier.training.distributed import laid_out_as

TENSORS = "training_state.safetensors"
RECORD = "training_state.json"


def write_state(folder: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write both into a temporary folder that holds the weights, with the sha256 of every file in it.

    The digests are the only protection against bit flips: safetensors loads corrupted data without an error.
    """
    copies = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(copies, folder / TENSORS)
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / RECORD).write_text(json.dumps({**record, "sha256": digests}, indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read both. Raises a LuthierError that names a missing or damaged file of the folder, weights included."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        for name, digest in record["sha256"].items():
            if sha256(folder / name) != digest:
                raise LuthierError(f"{folder} cannot be resumed: {name} is damaged")
        return safetensors.torch.load_file(folder / TENSORS), record
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "is missing" if missing else f"cannot be read ({error.strerror})"
        raise LuthierError(f"{folder} cannot be resumed: {Path(error.filename).name} {what}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
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
    """Restore the optimizer state; hyperparameters stay as the optimizers were built."""
    for index, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        prefix = f"optimizer.{index}."
        memory: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(prefix):
                number, key = name.removeprefix(prefix).split(".")
                memory.setdefault(int(number), {})[key] = value
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for weight, state in memory.items():
            for key, value in state.items():
                if value.ndim:  # not the scalar step count
                    state[key] = laid_out_as(value, parameters[weight])
        optimizer.load_state_dict({"state": memory, "param_groups": whole["param_groups"]})
