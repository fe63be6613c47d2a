"""Layout of a run's folder.

runs/demo/
    config.json model.safetensors tokenizer.json ...    the best weights, as a Hugging Face model folder
    checkpoints/step-00000500/                          the last weights, likewise, with what resuming needs, and a
                                                        manifest: training_state.json, with the sha256 of each file
    run.toml                                            the recipe of this run, every setting resolved
    metrics.jsonl samples.jsonl                         evaluations and samples
    losses.png report.html                              the curves; a page with everything about the run
    tokens/                                             the text as ids
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from luthier.data.shards import INDEX
from luthier.errors import LuthierError, setting
from luthier.files.sync import sync, sync_folder
from luthier.files.unfinished import clear_leftovers, remove, remove_folder, unfinished
from luthier.language_model import LanguageModel
from luthier.run.checkpoint_record import (
    RECORD,
    CheckpointRecord,
    NewerFormatError,
    newest_record,
    parse,
    read_record,
    whole_checkpoints,
)
from luthier.run.plan import RECIPE
from luthier.terminal.printing import warn
from luthier.training.checkpoint import read_state, write_state

LOCK = ".lock"


class RunFolder:
    """Paths of a run, and its checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / RECIPE
        self.metrics, self.samples = path / "metrics.jsonl", path / "samples.jsonl"
        self.picture, self.report = path / "losses.png", path / "report.html"
        self.checkpoints = path / "checkpoints"

    @property
    def tokens(self) -> Path:
        """Folder of token shards, as the newest checkpoint names it."""
        record = newest_record(self.path)
        return self.path / ("tokens" if record is None else record.tokens)

    def forget_tokens(self, keep: Path) -> None:
        """Remove token shards that no checkpoint refers to."""
        wanted = {keep.name}
        for checkpoint in self.whole_checkpoints():
            try:
                wanted.add(read_record(checkpoint).tokens)
            except LuthierError:
                return  # not known which it needs
        for path in (self.path / "tokens", *self.path.glob("tokens-????????")):
            if path.name not in wanted and (path / INDEX).is_file():
                remove_folder(path)

    def make(self) -> None:
        """Make the folder. Raises a LuthierError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with unfinished(self.path / "probe"):
                pass
        except OSError as error:
            raise LuthierError(f"{self.path} cannot be written: {error.strerror}") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes. The system releases the lock of a process that dies."""
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LuthierError(
                f"{self.path} is in use by another process: wait for its end, or name another folder with "
                f"{setting('out')}"
            ) from None
        except OSError as error:
            raise LuthierError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()

    def check_space(self, needed: int) -> None:
        """Raise a LuthierError if the disk has less than `needed` bytes free."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise LuthierError(
                f"{self.path}: the run will write up to {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
                f"make room, or name a folder on another disk ({setting('out')})"
            )

    def save_checkpoint(self, lm: LanguageModel, tensors: dict[str, Tensor], record: dict[str, Any], keep: int) -> Path:
        """Write weights and training state as one folder, which gets its name once all of it is on disk.

        Only the newest `keep` checkpoints are kept.
        """
        target = self.checkpoint_at(record["step"])
        if (target / RECORD).is_file():
            return target
        for left in self.checkpoints.glob(".step-*.part"):  # of version 0.1, of a run that was killed
            remove(left)
        try:
            with unfinished(target, folder=True) as part:
                lm.save(part)
                write_state(part, tensors, record)
                sync_folder(part)
                remove_folder(target)  # without a record: not ours, or taken apart
                part.replace(target)
            sync(self.checkpoints)
        except (OSError, SafetensorError) as error:  # a full disk is either
            raise LuthierError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}") from None
        self.prune(keep)
        return target

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints, and remains of older ones."""
        whole = self.whole_checkpoints()
        kept = whole[-keep:]
        half = [path for path in self.checkpoints.glob("step-????????") if path not in whole and path < kept[0]]
        for path in [*whole[:-keep], *half]:
            remove_folder(path)
        for path in self.checkpoints.glob(".step-*"):
            clear_leftovers(path.with_name(path.name.split(".")[1]))

    def checkpoint_at(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}"

    def whole_checkpoints(self) -> list[Path]:
        """Complete checkpoints, the oldest first."""
        return whole_checkpoints(self.checkpoints)

    def newest_checkpoint(self) -> tuple[Path, dict[str, Tensor], CheckpointRecord]:
        """The newest undamaged checkpoint and its state. Damaged ones are reported and renamed.

        Raises a LuthierError if there is none.
        """
        problem = f"{self.path} stopped before its first checkpoint: delete it and start again"
        for path in reversed(self.whole_checkpoints()):
            try:
                return (path, *read_checkpoint(path))
            except NewerFormatError:
                raise
            except LuthierError as error:
                problem = str(error)
                warn(f"{problem}; going back to the one before")
            with suppress(OSError):  # or the run could not save here again
                path.replace(path.with_name(f"damaged-{path.name}"))
        raise LuthierError(problem)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], CheckpointRecord]:
    """Training state of a checkpoint. Raises a LuthierError that names a damaged file or field."""
    tensors, record = read_state(path)
    return tensors, parse(record, path)
