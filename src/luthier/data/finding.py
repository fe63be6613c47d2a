"""Resolve paths, folders and globs to files, each once; report what is skipped."""

from __future__ import annotations

import difflib
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from luthier.data.binaries import COMPRESSED, plain_name
from luthier.errors import LuthierError, UsageError

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")  # searched for in folders, each also compressed
BY_NAME = (".json", ".csv", ".tsv")  # read only where named: in a folder, most of these are settings
Tell = Callable[[str], None]


def find_files(paths: str | Path | Iterable[str | Path], tell: Tell = lambda text: None) -> list[Path]:
    """Files named by paths, in order: a folder gives all its files with `SUFFIXES`, a glob its matches.

    Each file is given once, even if several paths or links lead to it. A file named directly is taken whatever its
    suffix, and read as plain text when the suffix is unknown. In folders, runs and models are skipped, and everything
    that is not a regular file. `tell` is called with a message for what was skipped.
    """
    found: dict[tuple[int, int], Path] = {}
    for item in [paths] if isinstance(paths, str | Path) else paths:
        if not str(item):
            raise UsageError("an empty name is no text: give a file, a folder or a glob")
        for path in _find(Path(item), tell):
            found.setdefault(identity(path), path)
    if not found:
        raise UsageError("no text is named: give a file, a folder or a glob")
    return list(found.values())


def identity(path: Path) -> tuple[int, int]:
    """(device, inode): equal for all names of a file."""
    try:
        status = path.stat()
    except OSError as error:
        raise LuthierError(f"{path}: cannot be read: {error.strerror}") from None
    return status.st_dev, status.st_ino


def kind_of(path: Path) -> str | None:
    """The suffix that determines how to read a file, or None if unknown."""
    name = plain_name(path)
    return next((suffix for suffix in SUFFIXES + BY_NAME if name.endswith(suffix)), None)


def is_run(folder: Path) -> bool:
    """Whether a folder belongs to a training run. A recipe alone does not count: it may be beside a text."""
    return (folder / "run.toml").is_file() and any(
        (folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "tokens")
    )


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model, whose README and vocabulary are not training text."""
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")
    )


def _find(path: Path, tell: Tell) -> list[Path]:
    if path.is_dir():
        return _in_folder(path, tell)
    if path.is_file():
        return [path]
    if path.exists():
        raise LuthierError(
            f"{path}: this is no file but a pipe or a device: a text is read more than once, so save it first"
        )
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (may be absolute)
        runs = {parent for match in matches for parent in match.parents if is_run(parent)}
        for run in sorted(runs):
            tell(f"{run}: skipped: it is the folder of a training run")
        files = [match for match in matches if match.is_file() and runs.isdisjoint(match.parents)]
        for match in matches:
            if not match.is_file() and not match.is_dir():
                tell(f"{match}: skipped: it is a pipe, a device or a broken link")
        if not files:
            raise LuthierError(f"{path}: no file matches")
        return files
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean '{path.with_name(near[0])}'?" if near else ""
    raise LuthierError(f"{path}: no such file or folder{hint}")


def _in_folder(folder: Path, tell: Tell) -> list[Path]:
    if is_run(folder):
        raise LuthierError(f"{folder}: this is the folder of a training run, not a text: name the text itself")
    files: list[Path] = []
    left: Counter[str] = Counter()
    for file in _walk(folder, tell):
        kind = kind_of(file)
        if kind is None:
            continue
        if not file.is_file():
            tell(f"{file}: skipped: it is a pipe, a device or a broken link")
        elif kind in SUFFIXES:
            files.append(file)
        else:
            left[kind] += 1
    if left:
        listed = ", ".join(f"{number:,} {kind}" for kind, number in sorted(left.items()))
        tell(f"{folder}: {listed} left out: in a folder only {', '.join(SUFFIXES)} are read; name them to read them")
    if not files:
        others = ", ".join(COMPRESSED)
        raise LuthierError(f"{folder}: this folder holds no text ({', '.join(SUFFIXES)}, or these with {others})")
    return sorted(files)


def _walk(folder: Path, tell: Tell) -> Iterator[Path]:
    """Walk all files of a folder recursively, except hidden ones, runs and models."""

    def unreadable(error: OSError) -> None:
        tell(f"{error.filename}: skipped: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=unreadable):
        inside = Path(place)
        kept = []
        for name in sorted(folders):
            child = inside / name
            what = "a training run" if is_run(child) else "a model" if is_model(child) else ""
            if what:
                tell(f"{child}: skipped: it is the folder of {what}")
            elif not name.startswith("."):
                kept.append(name)
        folders[:] = kept
        yield from (inside / name for name in names if not name.startswith("."))
