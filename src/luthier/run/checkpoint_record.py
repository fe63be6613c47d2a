"""The record of a checkpoint (training_state.json): the state of a run besides tensors, and its settings.

It is what a run resumes from; run.toml is a copy for people. Version 0.1 wrote no settings, decisions and checksum into
it, and is read too: then run.toml says the settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from luthier.errors import LuthierError
from luthier.files.sealed_json import SEAL, is_intact

RECORD = "training_state.json"
FORMAT = "luthier-checkpoint-2"
OLD_BATCHES = {
    "batches", "source", "tokens", "context_length", "batch_size", "seed", "stride", "items", "shuffle", "drop_last",
}  # fmt: skip

Count = Annotated[int, msgspec.Meta(ge=0)]


class Step(msgspec.Struct, forbid_unknown_fields=True):
    """A training step since the last evaluation; see training.loop.StepResult."""

    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: Count
    seconds: float
    loads: list[list[float]] = []
    figures: dict[str, float] = {}


class TrainerState(msgspec.Struct, forbid_unknown_fields=True):
    """State of the trainer besides its tensors."""

    step: Count
    tokens: Count
    batches: dict[str, bool | int | float | str | None]
    anchor: tuple[Count, float] | None = None


class Decisions(msgspec.Struct, forbid_unknown_fields=True):
    """Outcome of the settings that are `auto`: a resumed run uses the same, so that its numbers are the same."""

    device: str
    threads: Count
    compiled: bool
    parallel: Literal["ddp", "fsdp"]
    processes: Count


class CheckpointRecord(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """All fields of the record. Those with a default may be missing, as in records of version 0.1."""

    format: Literal["luthier-checkpoint-2"] | None = None
    step: Count
    trainer: TrainerState
    best: float | None
    seconds: float
    origin: dict[str, int | str]
    losses: list[float]
    recent: list[Step]
    sha256: dict[str, str]
    data: list[str] = []
    settings: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    decisions: Decisions | None = None
    total_steps: int | None = None
    tokens: str = "tokens"
    checksum: str | None = None

    @property
    def recipe(self) -> dict[str, Any] | None:
        """Settings of this checkpoint as the table of run.toml; None in a record of version 0.1."""
        if self.settings is None or self.model is None:
            return None
        return {"data": self.data, **self.settings, "model": self.model}


class NewerFormatError(LuthierError):
    """The checkpoint was written by a newer version; it is not damaged."""


def parse(record: dict[str, Any], folder: Path) -> CheckpointRecord:
    """Validate a record. Raises a LuthierError that names a field which is unknown, missing or of a wrong type."""
    wrong = f"{folder} cannot be resumed: {RECORD} is damaged"
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, str) and version != FORMAT and is_intact(record):
        raise NewerFormatError(
            f"{folder} was written by another version of Luthier ({version}): resume it with that one"
        )
    try:
        found = msgspec.convert(record, CheckpointRecord)
    except msgspec.ValidationError as error:
        raise LuthierError(f"{wrong} ({error})") from None
    if not is_intact(record):
        raise LuthierError(f"{wrong} (its checksum is not that of its contents)")
    old = found.format is None
    batches = found.trainer.batches
    given = batches.get("batches")
    if type(given) is not int or given < 0 or (old and not batches.keys() <= OLD_BATCHES):
        raise LuthierError(f"{wrong} (trainer.batches)")
    if found.step != found.trainer.step or not {"config.json"} <= found.sha256.keys():
        raise LuthierError(f"{wrong} (step and sha256 do not agree with the rest)")
    if not old and (found.recipe is None or found.decisions is None or found.checksum is None):
        raise LuthierError(f"{wrong} (settings, decisions or {SEAL} are missing)")
    return found


def read_record(folder: Path) -> CheckpointRecord:
    """Read the record of a checkpoint, and none of the files beside it."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except OSError as error:
        raise LuthierError(f"{folder} cannot be resumed: {RECORD} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise LuthierError(f"{folder} cannot be resumed: {RECORD} is damaged") from None
    return parse(record, folder)


def whole_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints of a folder, the oldest first."""
    return sorted(path.parent for path in checkpoints.glob(f"step-*/{RECORD}"))


def newest_record(run: Path) -> CheckpointRecord | None:
    """Record of the newest checkpoint with a valid record, or None."""
    for checkpoint in reversed(whole_checkpoints(run / "checkpoints")):
        try:
            return read_record(checkpoint)
        except LuthierError:
            continue
    return None
