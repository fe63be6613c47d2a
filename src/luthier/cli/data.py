"""`luthier data list` and `luthier data prepare`: the named corpora, and text made into token shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.data.sources import DEFAULT, corpora
from luthier.data.splits import Fractions
from luthier.data.text import Reading
from luthier.terminal.printing import note, output, say


@dataclass(frozen=True)
class List:
    """Show the named corpora: what they are, their size and license, and whether they are on this machine."""


@dataclass(frozen=True)
class Prepare:
    """Encode text as token shards, ready to train on: luthier data prepare book.txt --tokenizer gpt2 --out tokens"""

    tokenizer: str
    """a model's folder, a tokenizer.json, a SentencePiece or tiktoken .model, or "gpt2\""""
    out: Path
    """the folder to write; it must not hold anything yet"""
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA ...")] = (DEFAULT,)
    """corpus names, files, folders or globs"""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Reading)
    document_separator: str = ""
    """a text that parts files into documents, such as "<|endoftext|>"; empty: a file is one document"""
    validation: float | str = Fractions.validation
    """the fraction kept for validation; or a text of its own: a file, a folder or a corpus"""
    test: float = Fractions.test
    """the fraction kept for a test at the very end"""
    split_by: Literal["auto", "characters", "documents"] = Fractions.split_by
    """what is counted; auto: documents when there are enough of them for these fractions, else characters"""
    seed: int = Fractions.seed
    """chooses which documents are kept apart"""


def main(arguments: list[str]) -> int:
    """Run the verb. Returns the exit code."""
    verbs: dict[str, Callable[..., List | Prepare]] = {"list": List, "prepare": Prepare}
    chosen = tyro.extras.subcommand_cli_from_dict(verbs, args=arguments, prog="luthier data")
    return _list() if isinstance(chosen, List) else _prepare(chosen)


def _list() -> int:
    output(f"{'name':<18} {'download':>9}  {'here':<4}  {'language':<8}  license")
    for corpus in corpora().values():
        here = "yes" if corpus.is_here else "no"
        output(f"{corpus.name:<18} {_size(corpus.size):>9}  {here:<4}  {corpus.language:<8}  {corpus.license}")
        output(f"  {corpus.about}\n  {corpus.source}")
        for file in corpus.files:
            output(f"  sha256 {file.sha256}")
    return 0


def _size(size: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u), (1, ""))
    return f"{size / unit:.1f} {name}" if size else "none"


def _prepare(chosen: Prepare) -> int:
    from luthier.run.prepare import prepare

    index = prepare(
        chosen.data, chosen.tokenizer, chosen.out, validation=chosen.validation, test=chosen.test,
        split_by=chosen.split_by, seed=chosen.seed, **dataclasses.asdict(chosen.reading),
        document_separator=chosen.document_separator,
    )  # fmt: skip
    for split, entry in index.splits.items():
        counts = [f"{entry[count]:>14,} {count}" for count in ("tokens", "bytes", "documents")]
        say(" ".join([f"{split:<10}", *counts]))
    note(f"wrote {chosen.out} ({index.dtype}, split by {index.settings['split_by']})")
    return 0
