"""`luthier eval`: how well models foretell a text, in one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from luthier.data.text import Reading
from luthier.errors import UsageError
from luthier.opening import Device, NumberType, Quantize
from luthier.terminal.printing import output, output_table
from luthier.terminal.streams import is_terminal
from luthier.terminal.tables import text_table

if TYPE_CHECKING:
    from luthier.evaluation.evaluate import Evaluation

ABOUT = """Score a text with models: loss (nats a token, with its standard error), perplexity, bits per byte, tokens/s.
The text comes last: a file, a folder, a glob, or a corpus by name (luthier data list). Models whose tokenizers differ
are compared by bits per byte.

    luthier eval runs/book book.txt
    luthier eval runs/a runs/b SmolLM2-135M-Instruct.gguf the-verdict --context 512 --stride 256
    luthier eval runs/book texts/ --max-tokens 100000 --json scores.json
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ... DATA", help_behavior_hint="")
    ]
    """Models, and at the end the text."""
    context: int | None = None
    """Tokens that a model reads at once; what it was made for, but at most 1024, if not given."""
    stride: int | None = None
    """Tokens from the beginning of a window to that of the next; half the context if not given. The smaller, the more
    each token has before it, and the more it costs. As the context: windows side by side."""
    batch_size: int = 8
    """Windows read together."""
    max_tokens: int | None = None
    """Score the first tokens only, so many by each model's own tokenizer."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Reading)
    document_separator: str = ""
    """A text that parts files into documents, such as "<|endoftext|>"; empty: a file is one document."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the scores into this file too."""
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "auto"
    """Number type to compute in; auto takes that of the model's file."""
    quantize: Quantize = "no"
    """The matrices in 8 or 4 bits, on the CPU: faster, smaller, less exact. A GGUF file's blocks stay as they are."""


def main(arguments: list[str]) -> int:
    """Score the text with each model."""
    given = tyro.cli(Arguments, prog="luthier eval", description=ABOUT, args=arguments)
    if len(given.names) < 2:
        raise UsageError("give a model and a text: luthier eval MODEL ... DATA")
    *models, data = given.names
    from luthier.evaluation.evaluate import evaluate

    results = [
        evaluate(
            name, data, context=given.context, stride=given.stride, batch_size=given.batch_size,
            max_tokens=given.max_tokens, **dataclasses.asdict(given.reading),
            document_separator=given.document_separator, device=given.device, dtype=given.dtype,
            quantize=given.quantize,
        )
        for name in models
    ]  # fmt: skip
    if given.json is not None:
        from luthier.files.atomic_file import write_file

        records = [result.record() for result in results]
        content = json.dumps({"data": data, "models": records}, indent=2, allow_nan=False) + "\n"
        write_file(given.json, content, begins=b"{")
    show(results)
    return 0


def show(results: Sequence[Evaluation]) -> None:
    """The table: with lines at a terminal, columns of plain text elsewhere."""
    from luthier.evaluation.evaluate import COLUMNS

    rows = [result.row() for result in results]
    if is_terminal("stdout"):
        output_table(rows, COLUMNS)
    else:
        output(text_table(rows, COLUMNS))
