"""`luthier tokenizer train` and `luthier tokenizer show`: make a tokenizer from text, and see how one cuts a text."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from luthier.cli.texts import given_text
from luthier.data.sources import DEFAULT, Texts
from luthier.data.text import Reading
from luthier.errors import UsageError
from luthier.terminal.printing import note, output, output_styled, say
from luthier.terminal.streams import shows_colors

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

VOCAB_SIZE = 4096
COLORS = ("black on bright_cyan", "black on bright_yellow", "black on bright_magenta", "black on bright_green")
SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥"}


@dataclass(frozen=True)
class Train:
    """Make a tokenizer from text: luthier tokenizer train book.txt --vocab-size 4096 --out tokenizers/book"""

    out: Path
    """the folder to write: tokenizer.json and tokenizer_config.json, which transformers reads too"""
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA ...")] = (DEFAULT,)
    """corpus names, files, folders or globs"""
    kind: Literal["bpe", "characters"] = "bpe"
    """byte-level BPE, as GPT-2 has it, or a token for each character of the text"""
    vocab_size: int | None = None
    """tokens of a bpe vocabulary, 4096 if not given; characters come as many as there are"""
    byte_fallback: bool = False
    """give characters 256 tokens more, for bytes, so that they can write any text"""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Reading)
    document_separator: str = ""
    """a text that parts files into documents, such as "<|endoftext|>", and is no part of the vocabulary"""


@dataclass(frozen=True)
class Show:
    """Show how a tokenizer cuts a text, with the id of each piece: luthier tokenizer show gpt2 'Hello world'"""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """a model's folder, a .gguf file, a tokenizer.json, a SentencePiece or tiktoken .model, or "gpt2\""""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """the text"""
    special: bool = False
    """read special tokens in the text ("<|endoftext|>") as such, not as plain text"""


def main(arguments: list[str]) -> int:
    """Run the verb. Returns the exit code."""
    verbs: dict[str, Callable[..., Train | Show]] = {"train": Train, "show": Show}
    chosen = tyro.extras.subcommand_cli_from_dict(verbs, args=arguments, prog="luthier tokenizer")
    return _train(chosen) if isinstance(chosen, Train) else _show(chosen)


def _train(chosen: Train) -> int:
    from luthier.tokenizers.core.train import characters, train_bpe

    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"{chosen.out} is a file: a tokenizer is a folder, name another place with --out")
    if (chosen.out / "config.json").exists():
        raise UsageError(f"{chosen.out} holds a model, which would not know a new tokenizer: choose another --out")
    if any((chosen.out / name).exists() for name in ("index.json", "run.toml", "hparams.json", "params.json")):
        raise UsageError(f"{chosen.out} holds what another tokenizer made: choose another --out")
    if chosen.kind == "characters" and chosen.vocab_size is not None:
        raise UsageError("--vocab-size is for --kind bpe: a tokenizer of characters has those of its text")
    if chosen.kind == "bpe" and chosen.byte_fallback:
        raise UsageError("--byte-fallback is for --kind characters: bpe writes any text as it is")
    how = dataclasses.asdict(chosen.reading)
    source = Texts(chosen.data, **how, document_separator=chosen.document_separator)
    texts = (piece.text for piece in source)
    if chosen.kind == "characters":
        tokenizer = characters(texts, byte_fallback=chosen.byte_fallback)
    else:
        wanted = VOCAB_SIZE if chosen.vocab_size is None else chosen.vocab_size
        tokenizer = train_bpe(texts, wanted)
        if tokenizer.vocab_size < wanted:
            note(f"{wanted:,} tokens were asked for, but no more pairs in this text occur twice")
    tokenizer = tokenizer.with_cleaning(chosen.reading.normalisation)
    tokenizer.save(chosen.out)
    say(f"wrote {chosen.out}: {tokenizer.vocab_size:,} tokens")
    return 0


def _show(chosen: Show) -> int:
    from luthier.model_files.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(chosen.model)
    text = given_text(chosen.text, "the text")
    ids = tokenizer.encode(text, special=chosen.special)
    pieces = [visible(tokenizer.piece(number)) for number in ids]
    if shows_colors("stdout"):
        parts: list[tuple[str, str]] = []
        for place, (number, piece) in enumerate(zip(ids, pieces, strict=True)):
            parts += [(piece, COLORS[place % len(COLORS)]), (f" {number}  ", "dim")]
        output_styled(parts)
    else:
        for number, piece in zip(ids, pieces, strict=True):
            output(f"{number:>7}  {piece}")
    output(_summary(tokenizer, text, len(ids)))
    return 0


def visible(piece: bytes) -> str:
    """A piece with all that is in it to be seen: spaces, line ends and control characters get signs or numbers.

    Bytes that are only a part of a character are written in hexadecimal.
    """
    return "".join(map(_sign, piece.decode("utf-8", "backslashreplace")))


def _sign(character: str) -> str:
    if character in SHOWN:
        return SHOWN[character]
    kind = unicodedata.category(character)[0]
    if kind == "M":  # a mark sits on the character before it, so it is given one
        return f"◌{character}"
    return f"<U+{ord(character):04X}>" if kind in "CZ" else character


def _summary(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    size = len(text.encode())
    share = f", {size / tokens:.2f} bytes a token" if tokens else ""
    return f"{tokens:,} tokens of {tokenizer.vocab_size:,}; {len(text):,} characters, {size:,} bytes{share}"
