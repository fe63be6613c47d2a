"""`luthier tokenizer train` and `luthier tokenizer show`: make a tokenizer from text, and see how one cuts a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.cli.texts import given_text
from luthier.data.sources import DEFAULT
from luthier.data.text import Reading
from luthier.terminal.printing import output, output_styled, say
from luthier.terminal.streams import shows_colors

COLORS = ("black on bright_cyan", "black on bright_yellow", "black on bright_magenta", "black on bright_green")


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
    from luthier.model_files.tokenizer_of import tokenizer

    made = tokenizer(
        data=chosen.data, kind=chosen.kind, vocab_size=chosen.vocab_size, byte_fallback=chosen.byte_fallback,
        out=chosen.out, **dataclasses.asdict(chosen.reading), document_separator=chosen.document_separator,
    )  # fmt: skip
    say(f"wrote {chosen.out}: {made.vocab_size:,} tokens")
    return 0


def _show(chosen: Show) -> int:
    from luthier.model_files.tokenize import tokenize

    found = tokenize(chosen.model, given_text(chosen.text, "the text"), special=chosen.special)
    if shows_colors("stdout"):
        parts: list[tuple[str, str]] = []
        for place, (number, piece) in enumerate(zip(found.ids, found.pieces, strict=True)):
            parts += [(piece, COLORS[place % len(COLORS)]), (f" {number}  ", "dim")]
        output_styled(parts)
    else:
        for line in found.lines():
            output(line)
    output(found.summary)
    return 0
