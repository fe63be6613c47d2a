"""Files that are not plain text: decompress known formats, refuse others by their magic bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from luthier.errors import LuthierError

COMPRESSED = {  # suffix: magic bytes
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}
PLAIN_TEXT = "save it as plain text (.txt) first"
OFFICE = (  # name inside a zip file, and the document type it indicates
    ("word/", "a Word document (.docx)"),
    ("xl/", "an Excel workbook (.xlsx)"),
    ("ppt/", "a PowerPoint presentation (.pptx)"),
    ("META-INF/container.xml", "an EPUB book"),
    ("content.xml", "an OpenDocument file"),
)
MAGIC = (  # magic bytes, description, way out
    (b"%PDF-", "a PDF document", "extract its text first (pdftotext FILE)"),
    (b"\xd0\xcf\x11\xe0", "an Office document of the old kind (.doc, .xls, .ppt)", PLAIN_TEXT),
    (b"{\\rtf", "a rich text document (.rtf)", PLAIN_TEXT),
    (b"PK\x03\x04", "a zip archive", "name it .zip and the texts inside are read"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"ARROW1", "an Arrow file", "save it as .parquet or .jsonl"),
    (b"SQLite format 3", "an SQLite database", "export its text first"),
    (b"\x89PNG", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""),
    (b"RIFF", "a sound, image or video file (RIFF)", ""),
    (b"ID3", "an MP3 file", ""),
    (b"OggS", "an Ogg file", ""),
    (b"\x7fELF", "a program", ""),
    (b"GGUF", "the weights of a model (GGUF)", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
)


def refuse_binary(head: bytes, name: str) -> None:
    """Raise LuthierError for content whose first bytes identify a known binary format."""
    certain = b"\0" in head[:4096]  # a text may begin with "RIFF"
    what = next(
        (
            (what, way_out)
            for magic, what, way_out in MAGIC
            if head.startswith(magic) and (certain or not magic.isalnum())
        ),
        None,
    )
    if head[257:262] == b"ustar":
        what = ("a tar archive", "unpack it first")
    elif head.startswith(b"PK\x03\x04"):  # an office document's parts come first in its zip, with their names
        document = next((kind for part, kind in OFFICE if part.encode() in head), None)
        what = what if document is None else (document, PLAIN_TEXT)
    if what is not None:
        raise LuthierError(f"{name}: this is {what[0]}, not text" + (f": {what[1]}" if what[1] else ""))


def compression(head: bytes) -> str | None:
    """Suffix of the compression format that the first bytes identify, None if none."""
    found = next((suffix for suffix, magic in COMPRESSED.items() if head.startswith(magic)), None)
    return None if found == ".bz2" and head[4:10] != b"1AY&SY" else found  # a text may begin with "BZh"


def plain_name(path: Path) -> str:
    """File name in lower case, without a compression suffix."""
    name = path.name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name or first bytes indicate compression.

    Raises LuthierError for a file that cannot be read or decompressed, also while it is being read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(10)
            file.seek(0)
            suffix = next((end for end in COMPRESSED if path.name.lower().endswith(end)), None)
            suffix = suffix or compression(head)
            yield file if suffix is None else _decompressed(file, suffix, str(path))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # a truncated or damaged compressed file
        raise LuthierError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decompressed(file: BinaryIO, suffix: str, name: str) -> BinaryIO:
    if suffix == ".zst":
        if find_spec("zstandard") is None:
            raise LuthierError(
                f"{name}: reading .zst needs zstandard: pip install 'luthier[hub]', or unpack it (zstd -d)"
            )
        return io.BufferedReader(_Zstandard(file), 1 << 16)
    opening: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[suffix]
    return cast(BinaryIO, opening(file))


class _Zstandard(io.RawIOBase):
    """Decompress a .zst file frame by frame. Raises OSError if it is damaged, EOFError if truncated.

    zstandard's own reader takes a truncated file for a complete one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._held = file, memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        while not self._held:
            data = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            data = data or self._file.read(1 << 14)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("it ends within a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                self._held = memoryview(self._frame.decompress(data))
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
        given = self._held[: len(buffer)]
        buffer[: len(given)] = given
        self._held = self._held[len(given) :]
        return len(given)
