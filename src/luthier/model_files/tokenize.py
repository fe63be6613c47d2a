"""`luthier.tokenize`: how a tokenizer cuts a text, piece by piece."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass

from luthier.model_files.tokenizer import open_tokenizer
from luthier.terminal.tables import html_table
from luthier.tokenizers.core.tokenizer import Tokenizer

SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥"}


@dataclass(frozen=True, repr=False)
class TokenizedText:
    """A text as tokens. ids: of the tokens. pieces: their text, in which nothing is invisible."""

    text: str
    ids: list[int]
    pieces: list[str]
    vocab_size: int

    @property
    def summary(self) -> str:
        """The counts in a line."""
        size = len(self.text.encode())
        share = f", {size / len(self.ids):.2f} bytes a token" if self.ids else ""
        return f"{len(self.ids):,} tokens of {self.vocab_size:,}; {len(self.text):,} characters, {size:,} bytes{share}"

    def lines(self) -> list[str]:
        """The id and the text of each token."""
        return [f"{number:>7}  {piece}" for number, piece in zip(self.ids, self.pieces, strict=True)]

    def __repr__(self) -> str:
        return "\n".join([*self.lines(), self.summary])

    def _repr_html_(self) -> str:
        return html_table([(str(number), piece) for number, piece in zip(self.ids, self.pieces, strict=True)])


def tokenize(tokenizer: str | os.PathLike[str] | Tokenizer, text: str, *, special: bool = False) -> TokenizedText:
    """Cut a text into tokens, and show them.

        >>> luthier.tokenize("runs/book", "ka lo").pieces
        ['k', 'a', '␣', 'l', 'o']

    tokenizer: an open one, or what `luthier.tokenizer` opens. special: read special tokens in the text
    ("<|endoftext|>") as such, not as plain text. Raises a LuthierError where the tokenizer does not open.
    """
    found = tokenizer if isinstance(tokenizer, Tokenizer) else open_tokenizer(os.fspath(tokenizer))
    ids = found.encode(text, special=special)
    return TokenizedText(text, ids, [visible(found.piece(number)) for number in ids], found.vocab_size)


def visible(piece: bytes) -> str:
    """A token with spaces, line ends and control characters as signs or numbers, and parts of characters as bytes."""
    return "".join(map(_sign, piece.decode("utf-8", "backslashreplace")))


def _sign(character: str) -> str:
    if character in SHOWN:
        return SHOWN[character]
    kind = unicodedata.category(character)[0]
    if kind == "M":  # a mark sits on the character before it, so it is given one
        return f"◌{character}"
    return f"<U+{ord(character):04X}>" if kind in "CZ" else character
