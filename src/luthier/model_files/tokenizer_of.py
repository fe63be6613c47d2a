"""`luthier.tokenizer`: open a tokenizer, or train one on a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from luthier.data.decoding import Invalid
from luthier.data.sources import Texts
from luthier.errors import UsageError, setting
from luthier.model_files.tokenizer import open_tokenizer
from luthier.terminal.printing import note
from luthier.tokenizers.core.cleaning import Normalization
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe

VOCAB_SIZE = 4096
OTHERS = ("index.json", "run.toml", "hparams.json", "params.json")  # files beside which a tokenizer belongs to others


def tokenizer(
    name: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    kind: Literal["bpe", "characters"] = "bpe",
    vocab_size: int | None = None,
    byte_fallback: bool = False,
    out: str | os.PathLike[str] | None = None,
    field: str = "text",
    normalization: Normalization = "NFC",
    invalid: Invalid = "error",
    document_separator: str = "",
) -> Tokenizer:
    """Open a tokenizer by name, or train one on `data`.

        >>> made = luthier.tokenizer(data="book.txt", vocab_size=300, out="tokenizers/book")
        >>> made.vocab_size
        300
        >>> luthier.tokenizer("tokenizers/book").encode("ka lo") == made.encode("ka lo")
        True

    name: a model's folder, a .gguf file, a tokenizer.json, a SentencePiece or tiktoken .model, or "gpt2". data: a file,
    folder, glob or corpus, or a list of them. kind: byte-level BPE as GPT-2 has it, or a token for each character.
    vocab_size: of a BPE; 4096 unless given. byte_fallback: give characters 256 more tokens, for bytes, so that any text
    can be written. out: a folder to save it in. The others say how files are read.

    Raises a UsageError for settings that do not go together, and a LuthierError where files cannot be read.
    """
    if (name is None) == (data is None):
        raise UsageError("give the name of a tokenizer, or data to train one on")
    if name is not None:
        return open_tokenizer(os.fspath(name))
    if kind == "characters" and vocab_size is not None:
        raise UsageError(
            f"{setting('vocab_size')} is for {setting('kind', 'bpe')}: a tokenizer of characters has those of its text"
        )
    if kind == "bpe" and byte_fallback:
        raise UsageError(
            f"{setting('byte_fallback')} is for {setting('kind', 'characters')}: bpe writes any text as it is"
        )
    if out is not None:
        check_place(Path(out))
    names = (data,) if isinstance(data, (str, os.PathLike)) else tuple(data or ())
    texts = Texts(tuple(os.fspath(each) for each in names), field, normalization, invalid, document_separator)
    pieces = (piece.text for piece in texts)
    if kind == "characters":
        made = characters(pieces, byte_fallback=byte_fallback)
    else:
        wanted = VOCAB_SIZE if vocab_size is None else vocab_size
        made = train_bpe(pieces, wanted)
        if made.vocab_size < wanted:
            note(f"{wanted:,} tokens were asked for, but no more pairs in this text occur twice")
    made = made.with_cleaning(normalization)
    if out is not None:
        made.save(Path(out))
    return made


def check_place(out: Path) -> None:
    """A UsageError where a new tokenizer would belong to what is in the folder already."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: a tokenizer is a folder, name another place with {setting('out')}")
    if (out / "config.json").exists():
        raise UsageError(f"{out} holds a model, which would not know a new tokenizer: choose another {setting('out')}")
    if any((out / name).exists() for name in OTHERS):
        raise UsageError(f"{out} holds what another tokenizer made: choose another {setting('out')}")
