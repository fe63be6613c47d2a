"""`luthier eval`: how well models foretell a text, in one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from luthier.cli.opening import Device, NumberType, Quantize, open_model
from luthier.data.sources import Texts
from luthier.data.text import Reading
from luthier.errors import UsageError
from luthier.terminal.characters import one_line
from luthier.terminal.numbers import readable
from luthier.terminal.printing import output, output_table
from luthier.terminal.progress import progress
from luthier.terminal.streams import is_terminal

if TYPE_CHECKING:
    from luthier.evaluation.perplexity import TextScore
    from luthier.evaluation.windows import TokenSpan
    from luthier.language_model import LanguageModel
    from luthier.tokenizers.core.tokenizer import Tokenizer

ABOUT = """Score a text with models: loss (nats a token, with its standard error), perplexity, bits per byte, tokens/s.
The text comes last: a file, a folder, a glob, or a corpus by name (luthier data list). Models whose tokenizers differ
are compared by bits per byte.

    luthier eval runs/book book.txt
    luthier eval runs/a runs/b SmolLM2-135M-Instruct.gguf the-verdict --context 512 --stride 256
    luthier eval runs/book texts/ --max-tokens 100000 --json scores.json
"""
CONTEXT = 1024  # tokens: longer ones cost much and change little
COLUMNS = ("model", "loss", "± error", "perplexity", "bits/byte", "tokens", "tokens/s", "context", "stride")


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
    texts = Texts((data,), **dataclasses.asdict(given.reading), document_separator=given.document_separator)
    records = [evaluate(model, texts, given) for model in models]
    if given.json is not None:
        from luthier.files.atomic_file import write_file

        content = json.dumps({"data": data, "models": records}, indent=2, allow_nan=False) + "\n"
        write_file(given.json, content, begins=b"{")
    show(records)
    return 0


def evaluate(name: str, texts: Texts, given: Arguments) -> dict[str, Any]:
    """The scores of one model."""
    from luthier.evaluation.perplexity import score

    lm = open_model(name, given.device, given.dtype, given.quantize)
    context, stride = sizes(name, lm, given)
    with progress(f"scoring with {name}", given.max_tokens) as advance:
        found = score(
            lm.model,
            runs(texts, lm.tokenizer),
            context_length=context,
            stride=stride,
            batch_size=given.batch_size,
            max_tokens=given.max_tokens,
            progress=advance,
        )
    return record(name, found, context, stride)


def sizes(name: str, lm: LanguageModel, given: Arguments) -> tuple[int, int]:
    """Context and stride of a model's windows."""
    longest = lm.config.context_length
    context = min(longest, CONTEXT) if given.context is None else given.context
    if context > longest:
        raise UsageError(f"--context is {context}, and {name} was made for {longest}: take at most that")
    return context, max(1, context // 2) if given.stride is None else given.stride


def runs(texts: Texts, tokenizer: Tokenizer) -> Iterator[TokenSpan]:
    """The tokens of a text, without ever holding all of it. A document's are those that it has encoded whole."""
    from luthier.data.chunks import Cutter
    from luthier.evaluation.windows import token_span

    cutter, starts = Cutter(tokenizer), True
    for piece in texts:
        chunks = list(cutter.push(piece.text))
        if piece.ends:
            chunks.append(cutter.finish())
        rows = tokenizer.encode_arrays([chunk.before + chunk.text for chunk in chunks])
        for number, (chunk, ids) in enumerate(zip(chunks, cutter.without_before(chunks, rows), strict=True), 1):
            ends = piece.ends and number == len(chunks)
            yield token_span(tokenizer, ids.tolist(), chunk.text, starts=starts, ends=ends)
            starts = ends


def record(name: str, found: TextScore, context: int, stride: int) -> dict[str, Any]:
    """A model's scores by their names."""
    perplexity = found.perplexity if found.perplexity < float("inf") else None
    return {
        "model": name,
        "loss": found.loss,
        "standard_error": found.standard_error,
        "perplexity": perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
        "bytes": found.bytes,
        "tokens_per_second": found.tokens_per_second,
        "context": context,
        "stride": stride,
    }


def row(scores: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    error, perplexity = scores["standard_error"], scores["perplexity"]
    return (
        one_line(scores["model"]),
        f"{scores['loss']:.4f}",
        "-" if error is None else f"{error:.4f}",
        "-" if perplexity is None else readable(perplexity, 3),
        f"{scores['bits_per_byte']:.4f}",
        f"{scores['tokens']:,}",
        f"{scores['tokens_per_second']:,.0f}",
        f"{scores['context']:,}",
        f"{scores['stride']:,}",
    )


def show(records: Sequence[dict[str, Any]]) -> None:
    """The table: with lines at a terminal, columns of plain text elsewhere."""
    rows = [row(scores) for scores in records]
    if is_terminal("stdout"):
        output_table(rows, COLUMNS)
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for name, *numbers in [COLUMNS, *rows]:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True))
        output("  ".join([f"{name:<{widths[0]}}", *cells]))
