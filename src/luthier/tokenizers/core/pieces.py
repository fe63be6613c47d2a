"""What each token stands for, as bytes: the text of any ids is then one join and one UTF-8 decoding.

Two alphabets write bytes as text inside a vocabulary. GPT-2's gives each of the 256 bytes a printable character
("Ġ" is a space); SentencePiece's writes "▁" for a space and "<0xE9>" for a single byte.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

SPACE = "▁"  # U+2581, how SentencePiece writes a space
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_alphabet() -> list[str]:
    """The character that GPT-2 writes for each byte: itself where it can be seen, else the next one from U+0100 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


BYTE_ALPHABET = byte_alphabet()
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
# to the character of the byte's own number; what writes no byte itself goes where nothing can be encoded
TO_LATIN_1 = {**dict.fromkeys(range(256), 0xFFFF), **{ord(character): byte for character, byte in BYTE_OF.items()}}


class Pieces(NamedTuple):
    """The bytes of every token, by id, and how they make a text."""

    table: list[bytes]
    joins: bool  # whether a text is its pieces' bytes, one after another; WordPiece, for one, puts spaces between
    drops_space: bool  # whether one space at the beginning of a text is the tokenizer's own and goes


def pieces_of(backend: Backend) -> Pieces:
    """The pieces of a tokenizer, from what its decoder would do. Ids that no token has stand for nothing."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    steps = _steps(backend)
    kinds = {step["type"] for step in steps}
    joins = "ByteLevel" in kinds or (bool(steps) and all(_is_plain(step) for step in steps))
    spaces = [_replaced(step) for step in steps if step["type"] in ("Replace", "Metaspace")] if joins else []
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if token in added or not joins:
            table[number] = token.encode()
        elif "ByteLevel" in kinds:
            table[number] = _from_byte_level(token)
        elif "ByteFallback" in kinds and (byte := BYTE.fullmatch(token)):
            table[number] = bytes([int(byte[1], 16)])
        else:
            for old, new in spaces:
                token = token.replace(old, new)
            table[number] = token.encode()
    return Pieces(table, joins, joins and any(_drops_space(step) for step in steps))


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
    """Whether a decoder's step works on each piece alone, but for the one space at the beginning."""
    match step:
        case {"type": "ByteFallback" | "Fuse" | "Metaspace"} | {"type": "Replace", "pattern": {"String": _}}:
            return True
        case {"type": "Strip", "content": " ", "start": 0 | 1, "stop": 0}:
            return True
    return False


def _replaced(step: dict[str, Any]) -> tuple[str, str]:
    return (step["replacement"], " ") if step["type"] == "Metaspace" else (step["pattern"]["String"], step["content"])


def _drops_space(step: dict[str, Any]) -> bool:
    match step:
        case {"type": "Metaspace", "prepend_scheme": "never"}:
            return False
        case {"type": "Metaspace"} | {"type": "Strip", "start": 1}:
            return True
    return False
