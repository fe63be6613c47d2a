"""The bytes of each token, so that decoding is one join and one UTF-8 decode.

Vocabularies write bytes as text in one of two alphabets. GPT-2's gives each of the 256 bytes a printable character
("Ġ" is a space); SentencePiece's writes "▁" for a space and "<0xE9>" for a single byte.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

SPACE = "▁"  # U+2581, how SentencePiece writes a space
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# a decoder's step that takes the space at the beginning of a text away, if it is a piece's and no byte's
LEADING = r"\A▁"
LEADING_STEP = {"type": "Replace", "pattern": {"Regex": LEADING}, "content": ""}
EACH_BYTE = "luthier.each_byte"  # the name of `_each_byte` among Python's ways to handle errors


def byte_alphabet() -> list[str]:
    """GPT-2's character for each byte: itself if printable, otherwise the next one from U+0100 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


BYTE_ALPHABET = byte_alphabet()
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
# to the character of the byte's own number; what writes no byte itself goes where nothing can be encoded
TO_LATIN_1 = {**dict.fromkeys(range(256), 0xFFFF), **{ord(character): byte for character, byte in BYTE_OF.items()}}


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    """Decode error handler: U+FFFD for each invalid byte, as in SentencePiece. Python's "replace" gives one per run."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _each_byte)


class Pieces(NamedTuple):
    """The bytes of every token, by id, and how they are joined to a text."""

    table: list[bytes]
    joins: bool  # whether a text is the concatenation of its pieces; WordPiece, for example, puts spaces between
    drops_space: bool  # whether one leading space of a text is added by the tokenizer, and dropped
    keeps_space: frozenset[int] = frozenset()  # byte tokens, whose leading space belongs to the text
    errors: str = "replace"  # how bytes that are not UTF-8 become U+FFFD: a name for `bytes.decode`

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, if `joins`."""
        text = b"".join(map(self.table.__getitem__, ids)).decode("utf-8", self.errors)
        return text.removeprefix(" ") if text.startswith(" ") and self.drops_space_of(ids) else text

    def drops_space_of(self, ids: Sequence[int]) -> bool:
        """Whether a leading space was added by the tokenizer. ids: the tokens at the start of the text."""
        first = next((number for number in ids if self.table[number]), None) if self.keeps_space else None
        return self.drops_space and first not in self.keeps_space


def pieces_of(backend: Backend) -> Pieces:
    """The pieces of a tokenizer, derived from its decoder. Unused ids have no bytes."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    steps = _steps(backend)
    kinds = {step["type"] for step in steps}
    joins = "ByteLevel" in kinds or (bool(steps) and all(_is_plain(step) for step in steps))
    spaces = [_replaced(step) for step in steps if step["type"] in ("Replace", "Metaspace") and step != LEADING_STEP]
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    bytes_alone = set()
    for token, number in vocabulary.items():
        if token in added or not joins:
            table[number] = token.encode()
        elif "ByteLevel" in kinds:
            table[number] = _from_byte_level(token)
        elif "ByteFallback" in kinds and (byte := BYTE.fullmatch(token)):
            table[number] = bytes([int(byte[1], 16)])
            bytes_alone.add(number)
        else:
            for old, new in spaces:
                token = token.replace(old, new)
            table[number] = token.encode()
    return Pieces(
        table,
        joins,
        drops_space=joins and any(_drops_space(step) for step in steps),
        keeps_space=frozenset(bytes_alone if LEADING_STEP in steps else ()),
        errors=EACH_BYTE if "ByteFallback" in kinds else "replace",
    )


def _steps(backend: Backend) -> list[dict[str, Any]]:
    if backend.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return steps


def _from_byte_level(token: str) -> bytes:
    try:
        return token.translate(TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _is_plain(step: dict[str, Any]) -> bool:
    """Whether a decoder's step works on each piece independently, except for a leading space."""
    match step:
        case {"type": "ByteFallback" | "Fuse" | "Metaspace"} | {"type": "Replace", "pattern": {"String": _}}:
            return True
        case _ if step == LEADING_STEP:
            return True
        case {"type": "Strip", "content": " ", "start": 0 | 1, "stop": 0}:
            return True
    return False


def _replaced(step: dict[str, Any]) -> tuple[str, str]:
    return (step["replacement"], " ") if step["type"] == "Metaspace" else (step["pattern"]["String"], step["content"])


def _drops_space(step: dict[str, Any]) -> bool:
    match step:
        case _ if step == LEADING_STEP:
            return True
        case {"type": "Metaspace", "prepend_scheme": "never"}:
            return False
        case {"type": "Metaspace"} | {"type": "Strip", "start": 1}:
            return True
    return False


def decoder_before(decoder: dict[str, Any] | None) -> dict[str, Any] | None:
    """A decoder as version 0.1 wrote it, used for fingerprints, so that its runs and prepared data stay valid."""
    match decoder:
        case {"type": "Sequence", "decoders": [first, fuse, *begin, {"type": "Replace"} as spaces]} if (
            first["type"] == "ByteFallback" and fuse["type"] == "Fuse" and begin in ([], [LEADING_STEP])
        ):
            strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
            return {"type": "Sequence", "decoders": [spaces, first, fuse, *(strip for _ in begin)]}
    return decoder
