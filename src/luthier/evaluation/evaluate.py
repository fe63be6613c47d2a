"""`luthier.evaluate`: how well a model predicts a text, which is read and scored piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data.chunks import Cutter
from luthier.data.sources import Texts
from luthier.errors import UsageError, setting
from luthier.evaluation.perplexity import TextScore, score
from luthier.evaluation.windows import TokenSpan, token_span
from luthier.language_model import LanguageModel
from luthier.opening import Device, NumberType, Quantize, name_of, opened
from luthier.terminal.characters import one_line
from luthier.terminal.numbers import readable
from luthier.terminal.progress import progress
from luthier.terminal.tables import html_table, text_table
from luthier.tokenizers.core.cleaning import Normalization
from luthier.tokenizers.core.tokenizer import Tokenizer

CONTEXT = 1024  # tokens: longer ones cost much and change little
COLUMNS = ("model", "loss", "± error", "perplexity", "bits/byte", "tokens", "tokens/s", "context", "stride")


@dataclass(frozen=True, repr=False)
class Evaluation(TextScore):
    """A model's loss on a text (see `TextScore`), with the model's name and the sizes of its windows in tokens."""

    model: str
    context: int
    stride: int

    def record(self) -> dict[str, Any]:
        """All numbers by name, as JSON can hold them: an infinite perplexity is None."""
        return {
            "model": self.model,
            "loss": self.loss,
            "standard_error": self.standard_error,
            "perplexity": self.perplexity if self.perplexity < float("inf") else None,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "tokens_per_second": self.tokens_per_second,
            "context": self.context,
            "stride": self.stride,
        }

    def row(self) -> tuple[str, ...]:
        """The numbers as text, under `COLUMNS`."""
        return (
            one_line(self.model),
            f"{self.loss:.4f}",
            "-" if self.standard_error is None else f"{self.standard_error:.4f}",
            readable(self.perplexity, 3) if self.perplexity < float("inf") else "-",
            f"{self.bits_per_byte:.4f}",
            f"{self.tokens:,}",
            f"{self.tokens_per_second:,.0f}",
            f"{self.context:,}",
            f"{self.stride:,}",
        )

    def __repr__(self) -> str:
        return text_table([self.row()], COLUMNS)

    def _repr_html_(self) -> str:
        return html_table([self.row()], COLUMNS)


def evaluate(
    model: str | os.PathLike[str] | LanguageModel,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    max_tokens: int | None = None,
    field: str = "text",
    normalization: Normalization = "NFC",
    invalid: Any = "error",
    document_separator: str = "",
    device: Device = "auto",
    dtype: NumberType = "auto",
    quantize: Quantize = "no",
) -> Evaluation:
    """Score a text with a model: loss in nats per token, its standard error, perplexity, bits per byte.

        >>> result = luthier.evaluate("runs/book", "book.txt", context=16)
        >>> result
        model         loss  ± error  perplexity  bits/byte  tokens  tokens/s  context  stride
        runs/book   2...
        >>> result.loss, result.bits_per_byte
        (2..., 3...)

    model: what opens, or a model that is open. data: a file, folder, glob or corpus, or a list of them. context: tokens
    that the model sees at once; its own unless given, at most 1024. stride: from one window to the next; half the
    context unless given. max_tokens: score only as many. field, normalization, invalid and document_separator say how
    files are read, as for `luthier eval`.

    Raises a UsageError for sizes out of range, and a LuthierError for a text that cannot be read or scored.
    """
    names = (data,) if isinstance(data, (str, os.PathLike)) else tuple(data)
    texts = Texts(tuple(os.fspath(name) for name in names), field, normalization, invalid, document_separator)
    lm, name = opened(model, device, dtype, quantize), name_of(model)
    longest = lm.config.context_length
    width = min(longest, CONTEXT) if context is None else context
    if width > longest:
        raise UsageError(f"{setting('context')} is {width}, and {name} was made for {longest}: take at most that")
    step = max(1, width // 2) if stride is None else stride
    with progress(f"scoring with {name}", max_tokens) as advance:
        found = scored(lm, texts, width, step, batch_size, max_tokens, advance)
    return Evaluation(**vars(found), model=name, context=width, stride=step)


def scored(
    lm: LanguageModel,
    texts: Texts,
    context: int,
    stride: int,
    batch_size: int,
    max_tokens: int | None,
    watch: Callable[[int], None],
) -> TextScore:
    """The score of a text by a model. watch: called with the number of newly scored tokens."""
    spans = token_spans(texts, lm.tokenizer)
    return score(
        lm.model,
        spans,
        context_length=context,
        stride=stride,
        batch_size=batch_size,
        max_tokens=max_tokens,
        progress=watch,
    )


def token_spans(texts: Texts, tokenizer: Tokenizer) -> Iterator[TokenSpan]:
    """The tokens of a text, which is never held whole. A document has the tokens that it has when encoded whole."""
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
