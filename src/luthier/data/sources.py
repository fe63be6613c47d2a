"""Text sources: named corpora, each with its license, source and sha256, or paths.

`Texts` reads both. A corpus is downloaded once, verified, and kept in `$LUTHIER_HOME/corpora` (`~/.cache/luthier` by
default); `python-docs` comes from the running Python and needs no network.
"""

from __future__ import annotations

import difflib
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from luthier.data import python_docs
from luthier.data.decoding import Invalid
from luthier.data.finding import find_files, identity, kind_of
from luthier.data.records import RECORDS, need_pyarrow
from luthier.data.text import Piece, Reading, join, read_file, read_stream
from luthier.errors import LuthierError, UsageError, remark, setting
from luthier.files.download import digest_of, download
from luthier.files.user_folders import downloads
from luthier.tokenizers.core.cleaning import Normalization, clean

DEFAULT = "python-docs"
SEPARATORS = (  # separators that other programs write between documents
    "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_end|>", "<eos>", "</s>",
)  # fmt: skip
TEXT_MEMBERS = ("", ".txt", ".md", ".tokens", ".raw")  # suffixes of texts inside a zip


@dataclass(frozen=True)
class File:
    """A downloadable file of a corpus, at a fixed revision."""

    url: str
    size: int  # bytes
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Corpus:
    """A named corpus. `boundary` matches between documents, for files that hold many."""

    name: str
    about: str
    language: str
    license: str
    source: str  # web page that describes it
    files: tuple[File, ...] = ()
    boundary: re.Pattern[str] | None = None

    @property
    def size(self) -> int:
        """Size of the download in bytes."""
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> Path:
        return downloads() / "corpora" / self.name

    @property
    def is_here(self) -> bool:
        """Whether all files are present."""
        return all(_size(self.folder / file.name) == file.size for file in self.files)

    def fetch(self) -> list[Path]:
        """Paths of the corpus's files, sha256 verified; missing or damaged files are downloaded."""
        paths = []
        for file in self.files:
            path = self.folder / file.name
            if path.suffix == ".parquet":
                need_pyarrow(f"corpus '{self.name}'")  # before downloading half a gigabyte
            if _size(path) != file.size or digest_of(path) != file.sha256:
                try:
                    download(file.url, path, sha256=file.sha256, size=file.size)
                except LuthierError as error:
                    raise LuthierError(
                        f"corpus '{self.name}': {error}. Without a network, name a text file of your own instead, "
                        f"or put {file.name} at {path}"
                    ) from error
            paths.append(path)
        return paths


_HUB = "https://huggingface.co/datasets"

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name=DEFAULT,
            about="the documentation of the running Python: its language reference and docstrings",
            language="English",
            license="PSF-2.0",
            source="https://docs.python.org",
        ),
        Corpus(
            name="the-verdict",
            about="The Verdict, a short story by Edith Wharton (1908)",
            language="English",
            license="public domain",
            source="https://en.wikisource.org/wiki/The_Verdict",
            files=(
                File(
                    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
                    20_479,
                    "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
                ),
            ),
        ),
        Corpus(
            name="tiny-shakespeare",
            about="40,000 lines of Shakespeare's plays",
            language="English",
            license="public domain",
            source="https://github.com/karpathy/char-rnn",
            files=(
                File(
                    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
                    1_115_394,
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                ),
            ),
        ),
        Corpus(
            name="wikitext-fr",
            about="2,126 quality articles of the French Wikipedia",
            language="French",
            license="CC-BY-SA-4.0",
            source=f"{_HUB}/asi/wikitext_fr",
            files=(
                File(
                    f"{_HUB}/asi/wikitext_fr/resolve/b26c0044a44a16059c821551364719b675e45ed7/wikitext_35/wiki.zip",
                    53_276_961,
                    "b0fcd75aacd07022bdc2e0abc1821c433eaba7169c9e851383eb45a75546a3d8",
                ),
            ),
            boundary=re.compile(r"^(?= ?= [^=\n]+ = ?$)", re.MULTILINE),  # before an article's title: = Title =
        ),
        Corpus(
            name="tinystories",
            about="2.7 million short stories in simple words, written by GPT-4 (arXiv 2305.07759)",
            language="English",
            license="CDLA-Sharing-1.0",
            source=f"{_HUB}/roneneldan/TinyStories",
            files=(
                File(
                    f"{_HUB}/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-train.txt",
                    2_227_753_162,
                    "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
                ),
            ),
            boundary=re.compile(r"<\|endoftext\|>"),
        ),
        Corpus(
            name="fineweb-edu",
            about="educational web pages: the last file of the 10-billion-token sample (arXiv 2406.17557)",
            language="English",
            license="ODC-By-1.0",
            source=f"{_HUB}/HuggingFaceFW/fineweb-edu",
            files=(
                File(
                    f"{_HUB}/HuggingFaceFW/fineweb-edu/resolve/87f09149ef4734204d70ed1d046ddc9ca3f2b8f9/sample/10BT/013_00000.parquet",
                    540_632_672,
                    "b393f51fefab26cd6f4c8f65707c1924f6666c4961a0ebebe04bb57f7ec832de",
                ),
            ),
        ),
    )
}


def corpora() -> dict[str, Corpus]:
    """The named corpora: what they are, their size and license, and whether they are on this machine.

    >>> luthier.corpora()["python-docs"].is_here
    True
    """
    return dict(CORPORA)


@dataclass(frozen=True)
class Texts:
    """Cleaned text of named corpora and paths; iterating yields `Piece`s, each time from the start.

    `data` holds corpus names, files, folders and globs, in reading order; a file named several times is read once. A
    corpus's name takes precedence over a file of that name: write ./NAME for the file. `field`, `normalization` and
    `invalid` are those of `text.Reading`. `document_separator` is a string that separates documents within a file;
    `without` names texts to exclude. Notices, such as what was skipped, are printed once as a `Remark`; `remarks`
    collects them.

    Raises LuthierError when a path does not exist; a corpus is downloaded when it is first read.
    """

    data: tuple[str | Path, ...] = (DEFAULT,)
    field: str = "text"
    normalization: Normalization = "NFC"
    invalid: Invalid = "error"
    document_separator: str = ""
    without: tuple[str | Path, ...] = ()
    remarks: list[str] = dataclass_field(default_factory=list, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", tuple(self.data))
        if not self.data:
            raise UsageError(f"no text is named: give a file, a folder, a glob, or a corpus ({', '.join(CORPORA)})")
        for item in (*self.data, *self.without):
            if str(item) not in CORPORA:
                _find(item)

    def __iter__(self) -> Iterator[Piece]:
        how = Reading(self.field, self.normalization, self.invalid)
        separator = clean(self.document_separator, self.normalization)
        seen: Counter[str] = Counter()
        for item, paths in self._files:
            if item == DEFAULT:
                yield from (Piece(clean(document, self.normalization), True) for document in python_docs.documents())
            for path in paths:
                pieces = _read_zip(path, how) if path.suffix == ".zip" else read_file(path, how, self._remark)
                boundary = CORPORA[item].boundary if item in CORPORA else None
                if boundary is not None:
                    pieces = split_documents(pieces, boundary)
                elif separator:
                    pieces = split_documents(pieces, separator, seen)
                else:
                    pieces = _counted(pieces, SEPARATORS, seen)
                yield from pieces
        kinds = {kind_of(path) for _, paths in self._files for path in paths}
        if self.field != "text" and kinds.isdisjoint(RECORDS):
            self._remark(f"{setting('field', self.field)} has no effect: there is no {', '.join(RECORDS)} file")
        if separator and not seen:
            self._remark(f"the document separator {self.document_separator!r} is nowhere in the text")
        for name, count in seen.items() if not separator else ():
            self._remark(
                f"{name!r} is written in the text {count:,} times and is read as plain characters; "
                f"if it parts documents, add {setting('document_separator', name)}"
            )

    def documents(self) -> Iterator[str]:
        """Complete documents; each must fit in memory."""
        return join(self)

    @cached_property
    def _files(self) -> list[tuple[str, list[Path]]]:
        """The items, each with those of its files that no earlier item contains."""
        known = {identity(path) for item in self.without for path in _files_of(str(item), self._remark)}
        left_out, twice = set(known), 0
        items: list[tuple[str, list[Path]]] = []
        for item in dict.fromkeys(map(str, self.data)):
            paths = []
            for path in _files_of(item, self._remark):
                number = identity(path)
                if number not in known:
                    paths.append(path)
                elif number not in left_out:
                    twice += 1
                known.add(number)
            items.append((item, paths))
        if twice or len(items) < len(self.data):
            self._remark(f"of {' '.join(map(str, self.data))}, what is named twice is read once")
        if not any(paths or item == DEFAULT for item, paths in items):
            raise UsageError(f"all of {' '.join(map(str, self.data))} is in {' '.join(map(str, self.without))} too")
        return items

    @property
    def files(self) -> list[str | Path]:
        """What is read, in order: paths, and the name of the corpus that has no file."""
        return [part for item, paths in self._files for part in ([DEFAULT] if item == DEFAULT else paths)]

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)
            remark(text)


def split_documents(
    pieces: Iterable[Piece], boundary: re.Pattern[str] | str, seen: Counter[str] | None = None
) -> Iterator[Piece]:
    """Split files that hold many documents at a boundary, without the blank lines around them.

    A pattern matches within one line, and pieces end with a line, so each piece is searched separately. A plain string
    may contain line ends and span two pieces; its occurrences are counted in `seen`.
    """
    pattern = re.compile(re.escape(boundary)) if isinstance(boundary, str) else boundary
    reach = len(boundary) - 1 if isinstance(boundary, str) else 0  # characters that the next piece may complete
    held: list[str] = []
    rest = ""
    for piece in pieces:
        parts = pattern.split(rest + piece.text)
        if seen is not None and isinstance(boundary, str) and len(parts) > 1:
            seen[boundary] += len(parts) - 1
        for i, part in enumerate(parts):
            if i and (document := "".join(held).strip()):
                yield Piece(document + "\n", True)
            held = [*held, part] if i == 0 else [part]
        rest = held[-1][-reach:] if reach else ""
        held[-1] = held[-1].removesuffix(rest)
        if piece.ends:
            if document := ("".join(held) + rest).strip():
                yield Piece(document + "\n", True)
            held, rest = [], ""


def _counted(pieces: Iterable[Piece], names: Sequence[str], seen: Counter[str]) -> Iterator[Piece]:
    """Pass pieces through, counting the occurrences of each name."""
    for piece in pieces:
        for name in names:
            if count := piece.text.count(name):
                seen[name] += count
        yield piece


def _files_of(item: str, tell: Callable[[str], None]) -> list[Path]:
    return CORPORA[item].fetch() if item in CORPORA else find_files(item, tell)


def _read_zip(path: Path, how: Reading) -> Iterator[Piece]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(member.filename for member in archive.infolist() if not member.is_dir())
            texts = [name for name in names if _is_text(PurePosixPath(name))]
            if not texts:
                raise LuthierError(f"{path}: no text inside, only {', '.join(names) or 'nothing'}")
            for name in texts:
                with archive.open(name) as file:
                    yield from read_stream(cast(BinaryIO, file), f"{path}/{name}", how)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise LuthierError(f"{path}: not a sound zip file: {error}") from error


def _is_text(name: PurePosixPath) -> bool:
    return name.suffix in TEXT_MEMBERS and not any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _find(item: str | Path) -> None:
    try:
        find_files(item)
    except LuthierError as error:
        if Path(item).exists():
            raise
        if near := difflib.get_close_matches(Path(item).stem, CORPORA, n=1, cutoff=0.8):
            raise LuthierError(f"{error}; there is a corpus {near[0]}") from None
        if "/" in str(item) or "." in str(item):
            raise
        raise LuthierError(f"{error}; nor is it a corpus: {', '.join(CORPORA)}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
