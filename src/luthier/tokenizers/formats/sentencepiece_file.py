"""Read a SentencePiece `.model`: a protocol buffers message, of which a tokenizer needs a few fields.

The field numbers are those of SentencePiece's sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from luthier.errors import LuthierError
from luthier.files.protobuf_wire import Field, fields
from luthier.files.reading import read_bytes


class Kind(IntEnum):
    """Type of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """Segmentation algorithm."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHARACTERS = 4


@dataclass(frozen=True)
class Piece:
    """A token: its text ("▁" is a space), its log probability (or negative rank), and its type."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Model:
    """The content of a `.model` file."""

    pieces: list[Piece]
    algorithm: Algorithm
    byte_fallback: bool
    space_after_words: bool
    roles: dict[str, str]  # unk, bos, eos, pad: the text of that piece
    rules_name: str  # of the normalization
    charsmap: bytes  # the normalization's rules, "" for none
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read_model(path: Path) -> Model:
    """Read a file. Raises LuthierError if it is not a SentencePiece model."""
    data = read_bytes(path)
    try:
        message = list(fields(data))
        pieces = [_piece(value) for number, value in message if number == 1 and isinstance(value, bytes)]
        trainer, normalizer = _last(message, 2), _last(message, 3)
        if not pieces or not normalizer:
            raise ValueError("it holds no pieces")
        names = {"unk": (45, "<unk>"), "bos": (46, "<s>"), "eos": (47, "</s>"), "pad": (48, "<pad>")}
        roles = {role: _text(trainer, number, default) for role, (number, default) in names.items()}
        charsmap = normalizer.get(2, b"")
        return Model(
            pieces=pieces,
            algorithm=Algorithm(_number(trainer, 3, Algorithm.UNIGRAM)),
            byte_fallback=bool(_number(trainer, 35, 0)),
            space_after_words=bool(_number(trainer, 24, 0)),
            roles=roles,
            rules_name=_text(normalizer, 1, ""),
            charsmap=charsmap if isinstance(charsmap, bytes) else b"",
            add_dummy_prefix=bool(_number(normalizer, 3, 1)),
            remove_extra_whitespaces=bool(_number(normalizer, 4, 1)),
            escape_whitespaces=bool(_number(normalizer, 5, 1)),
        )
    except (ValueError, struct.error) as error:
        raise LuthierError(f"{path} is not a SentencePiece model: {error}") from None


def _piece(message: bytes) -> Piece:
    values = dict(fields(message))
    (score,) = struct.unpack("<f", score) if isinstance(score := values.get(2, bytes(4)), bytes) else (0.0,)
    if score != score or score in (float("inf"), float("-inf")):
        raise ValueError("a piece's score is not a number")
    return Piece(_text(values, 1, ""), score, Kind(_number(values, 3, Kind.NORMAL)))


def _last(message: list[tuple[int, Field]], wanted: int) -> dict[int, Field]:
    found = [value for number, value in message if number == wanted and isinstance(value, bytes)]
    return dict(fields(found[-1])) if found else {}


def _number(message: dict[int, Field], number: int, default: int) -> int:
    value = message.get(number, default)
    return value if isinstance(value, int) else default


def _text(message: dict[int, Field], number: int, default: str) -> str:
    value = message.get(number)
    return value.decode() if isinstance(value, bytes) else default
