"""`luthier.compare`: two models on one text, as tables of where their activations and probabilities diverge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from luthier.errors import LuthierError, UsageError, remark, setting
from luthier.generation.generate import encode_prompts
from luthier.inspect.compare import Comparison
from luthier.inspect.compare import compare as compare_activations
from luthier.inspect.printable import printable
from luthier.language_model import LanguageModel
from luthier.opening import Device, NumberType, Quantize, name_of, opened

TOLERANCE = 1e-3
DTYPE: NumberType = "float32"


@dataclass(frozen=True, repr=False)
class TextComparison:
    """Two models compared on a text.

    model_a, model_b: their names. tokens: ids of the text. pieces: the same as printable text. found: the numbers.
    tolerance: relative difference from which on activations count as different.
    """

    model_a: str
    model_b: str
    tokens: list[int]
    pieces: list[str]
    found: Comparison
    tolerance: float

    @property
    def first(self) -> str | None:
        """The first activation that differs, such as "layer 3 attention"; None if none does."""
        first = self.found.first(self.tolerance)
        return None if first is None else first.name

    def verdict(self) -> list[str]:
        """The result in a few lines."""
        found, first = self.found, self.found.first(self.tolerance)
        if not found.differences:
            lines = ["the models have other numbers of layers or dims: only their probabilities compare"]
        elif first is None:
            lines = [f"the models agree: no layer differs by more than {self.tolerance:g}"]
        else:
            lines = [f"the models part after {first.name}: {first.relative:.2e} is over {self.tolerance:g}"]
        if found.tokens:
            gaps = [abs(token.probability[0] - token.probability[1]) for token in found.tokens]
            lines.append(f"largest difference of a token's probability: {max(gaps):.3g}")
        return [*lines, f"mean divergence of what comes next: {found.divergence:.2e} bits"]

    def lines(self) -> Iterator[str]:
        """The verdict, then the tables."""
        yield from self.verdict()
        if self.found.differences:
            yield f"\n{'after':<24}{'|a-b|/|a|':>12}{'largest |a-b|':>16}  at token"
            for each in self.found.differences:
                mark = "*" if not each.relative <= self.tolerance else " "
                place = f"{each.token} {self.pieces[each.token]}"
                yield f"{mark} {each.name:<22}{each.relative:>12.2e}{each.largest:>16.2e}  {place}"
        if self.found.tokens:
            yield f"\n{'place':>5}  {'p in a':>9}{'p in b':>11}{'b - a':>11}  token"
            for token in self.found.tokens:
                one, two = token.probability
                yield f"{token.place:>5}  {one:>9.3g}{two:>11.3g}{two - one:>+11.3g}  {self.pieces[token.place]}"

    def record(self) -> dict[str, Any]:
        """All numbers by name, as JSON can hold them: NaN and infinity are None."""
        return {
            "model_a": self.model_a,
            "model_b": self.model_b,
            "tolerance": self.tolerance,
            "first": self.first,
            "divergence_bits": finite(self.found.divergence),
            "differences": [
                {name: finite(value) if isinstance(value, float) else value for name, value in asdict(each).items()}
                for each in self.found.differences
            ],
            "ids": self.tokens,
            "tokens": [
                {
                    "place": token.place,
                    "id": token.token,
                    "a": finite(token.probability[0]),
                    "b": finite(token.probability[1]),
                }
                for token in self.found.tokens
            ],
        }

    def __repr__(self) -> str:
        return "\n".join(self.lines())


def compare(
    model_a: str | os.PathLike[str] | LanguageModel,
    model_b: str | os.PathLike[str] | LanguageModel,
    text: str,
    *,
    tolerance: float = TOLERANCE,
    device: Device = "auto",
    dtype: NumberType = DTYPE,
    quantize: Quantize = "no",
) -> TextComparison:
    """Run two models on a text, and find the first layer whose outputs differ.

        >>> luthier.compare("runs/book", "runs/book", "ka lo mi").verdict()[0]
        'the models agree: no layer differs by more than 0.001'
        >>> luthier.load("runs/book").save("book.gguf", "gguf", quantize="F16")
        >>> luthier.compare("runs/book", "book.gguf", "ka lo mi", tolerance=1e-6).first
        'embedding'

    tolerance: of |a - b| / |a| of a token's vectors. device, dtype: where and in what to compute; models that are open
    stay where they are. quantize: open model_b in 8 or 4 bits. Raises a LuthierError where the models tokenize the text
    differently, or it is longer than their context.
    """
    if not 0 <= tolerance < float("inf"):
        raise UsageError(f"{setting('tolerance', tolerance)} must be a number from 0 on")
    a = model_a if isinstance(model_a, LanguageModel) else opened(model_a, device, dtype)
    if isinstance(model_b, LanguageModel) and quantize == "no":
        b = model_b
    else:
        b = opened(model_b, device, dtype if quantize == "no" else "auto", quantize)
    if quantize != "no" and dtype != DTYPE:
        others = setting("quantize", quantize)
        remark(f"{setting('dtype', dtype)} is for {name_of(model_a)}: with {others} the other computes in bfloat16")
    tokens = same_tokens(a, b, text)
    pieces = [printable(a.tokenizer.piece(token)) for token in tokens]
    found = compare_activations(a.model, b.model, tokens)
    if not found.differences and tolerance != TOLERANCE:
        remark(f"{setting('tolerance', tolerance)} has no effect: the models have no layers in common")
    return TextComparison(name_of(model_a), name_of(model_b), tokens, pieces, found, tolerance)


def same_tokens(a: LanguageModel, b: LanguageModel, text: str) -> list[int]:
    """The tokens of the text, if both models' tokenizers give the same."""
    [ours], [theirs] = (encode_prompts(lm.tokenizer, [text]) for lm in (a, b))
    if ours != theirs:
        places = (place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
        place = next(places, min(len(ours), len(theirs)))
        raise LuthierError(
            f"the models cut the text into other tokens, from token {place} on ({len(ours)} and {len(theirs)} in all): "
            "compare models of one tokenizer, or take `luthier eval`, which compares by bits per byte"
        )
    longest = min(a.config.context_length, b.config.context_length)
    if len(ours) > longest:
        raise LuthierError(f"the text has {len(ours)} tokens, and the context is {longest}: give a shorter text")
    return ours


def finite(value: float) -> float | None:
    """The number; None for NaN and infinity, which JSON lacks."""
    return value if abs(value) < float("inf") else None
