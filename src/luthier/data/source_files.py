"""The files that a text was read from, with their digests: what tells the same text from another of its name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from luthier.data import python_docs
from luthier.data.digests import digests
from luthier.data.sources import DEFAULT, Texts


@dataclass(frozen=True)
class SourceFile:
    """A file that a text was read from."""

    path: str
    size: int  # bytes
    sha256: str

    def __str__(self) -> str:
        return f"{self.path} ({self.size:,} bytes, sha256 {self.sha256[:12]})"


def source_files(*texts: Texts | None) -> list[SourceFile]:
    """Every file that these texts are read from, as it is now; `python-docs`, which has no file, by its text."""
    files = [file for each in texts if each is not None for file in each.files]
    paths = [file for file in files if isinstance(file, Path)]
    found = []
    if DEFAULT in files:
        content = b"\0".join(document.encode() for document in python_docs.documents())
        found.append(SourceFile(DEFAULT, len(content), hashlib.sha256(content).hexdigest()))
    sums = zip(paths, digests(paths, "comparing the text"), strict=True)
    return found + [SourceFile(str(path), path.stat().st_size, digest) for path, digest in sums]


def changes(before: list[SourceFile], now: list[SourceFile]) -> list[str]:
    """What is another text now, named; none where the same contents come in the same order, whatever their paths."""
    if [source.sha256 for source in before] == [source.sha256 for source in now]:
        return []
    old, new = ({source.path: source for source in sources} for sources in (before, now))
    changed = [
        f"{old[path]} is now {new[path]}" for path in old if path in new and old[path].sha256 != new[path].sha256
    ]
    gone = [f"{old[path]} is not among it" for path in old if path not in new]
    added = [f"{new[path]} is new" for path in new if path not in old]
    return changed + gone + added or ["the files are read in another order"]
