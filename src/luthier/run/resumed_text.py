"""The text of a resumed run: its own tokens, verified, or those of another text if that is requested."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

import msgspec

from luthier.data.shards import check_files, read_index
from luthier.data.source_files import SourceFile, changes, source_files
from luthier.errors import LuthierError, UsageError, setting
from luthier.run import corpus, token_splits
from luthier.run.checkpoint_record import CheckpointRecord
from luthier.run.folder import RunFolder
from luthier.run.plan import Plan
from luthier.terminal.printing import say, warn
from luthier.tokenizers.core.tokenizer import Tokenizer

MOST_NAMED = 3  # files in one message


def choose(
    plan: Plan, named: tuple[str, ...], folder: RunFolder, record: CheckpointRecord, tokenizer: Tokenizer, anyway: bool
) -> tuple[Path, tuple[str, ...]]:
    """(the folder of tokens to train on, the data to record). Every file of it is read and compared.

    plan: the run's, as it goes on, with the data that it was trained on. named: the data that the command names, empty
    for none. A LuthierError says how they differ from what the run was trained on, or which file of it is damaged.
    """
    own = corpus.prepared_folder(plan.data) or folder.path / record.tokens
    if not named or named == plan.data == (str(own),):
        check_own(plan, own, folder, record, anyway=anyway)
        return own, plan.data
    other = corpus.prepared_folder(named)
    if other is not None:
        refuse([f"data is {' '.join(plan.data)}, not {' '.join(named)}"], anyway=anyway)
        check_files(other)
        if read_index(other).fingerprint != tokenizer.fingerprint:
            raise UsageError(f"{other} was prepared with another tokenizer than the run's: prepare the text with it")
        return other, named
    texts = corpus.texts_of(named, plan.settings)
    before, now = recorded(own), source_files(*texts)
    differing = changes(before, now) if before is not None else []
    if before is None and named != plan.data:
        differing = [f"data is {' '.join(plan.data)}, not {' '.join(named)}"]
    refuse(differing, anyway=anyway)
    if before is None and not differing:
        warn(
            f"{own} does not say what its text was (a version before 0.2 made it), so {' '.join(named)} is not compared"
        )
    if not differing:
        try:
            check_own(plan, own, folder, record, anyway=False)
            return own, plan.data
        except LuthierError as error:
            if before is None:
                raise
            warn(f"{error}. The text is that of the run: encoding it anew")
    target = folder.path / f"tokens-{name_of(now)}"
    if not target.exists():
        corpus.encode(*texts, tokenizer, plan.settings, target, now)
    check_files(target)
    if not differing and token_splits.origin(target) != record.origin:
        raise LuthierError(
            f"{' '.join(named)} gives other tokens than the run was trained on: add "
            f"{setting('anyway', True)} to take them"
        )
    return target, named


def refuse(differing: list[str], *, anyway: bool) -> None:
    """Raise a UsageError that names the differences, unless they are wanted."""
    if not differing:
        return
    more = f"; and {len(differing) - MOST_NAMED:,} more" if len(differing) > MOST_NAMED else ""
    listed = "; ".join(differing[:MOST_NAMED]) + more
    if not anyway:
        raise UsageError(
            f"the run was trained on another text: {listed}. Leave DATA out to go on with the run's own tokens, or add "
            f"{setting('anyway', True)} to go on with this text"
        )
    say(f"resuming with another text: {listed}")


def check_own(plan: Plan, own: Path, folder: RunFolder, record: CheckpointRecord, *, anyway: bool) -> None:
    """Read the run's tokens and compare them with their index, and the index with the checkpoint."""
    try:
        check_files(own)
        origin = token_splits.origin(own)
    except LuthierError as error:
        again = f"luthier train {shlex.join(plan.data)} --out {shlex.quote(str(folder.path))} --resume"
        way_out = "" if corpus.prepared_folder(plan.data) else f" (to have it encoded anew: {again})"
        raise LuthierError(f"{error}{way_out}") from None
    before = record.origin
    changed = sorted(name for name in before.keys() | origin.keys() if before.get(name) != origin.get(name))
    if changed and not anyway:
        listed = "; ".join(f"{name} was {before.get(name)}, is {origin.get(name)}" for name in changed)
        raise LuthierError(
            f"{own} has changed since the run was begun ({listed}): put it back, or go on with "
            f"{setting('anyway', True)}, in new batches"
        )


def recorded(tokens: Path) -> list[SourceFile] | None:
    """The files that the tokens were read from; None if they were not recorded."""
    try:
        kept: Any = read_index(tokens).settings.get("sources")
        return None if kept is None else msgspec.convert(kept, list[SourceFile])
    except (LuthierError, msgspec.ValidationError):
        return None


def name_of(sources: list[SourceFile]) -> str:
    """Eight hexadecimal digits that identify a text."""
    return hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()[:8]
