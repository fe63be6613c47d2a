"""`luthier compare`: where two models part, by layer and by token."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from luthier.cli.opening import Device, NumberType, Quantize, open_model
from luthier.cli.texts import text_or_stdin
from luthier.errors import LuthierError, UsageError
from luthier.terminal.printing import output

if TYPE_CHECKING:
    from luthier.inspect.compare import Comparison, Difference
    from luthier.language_model import LanguageModel

ABOUT = """Let two models read a text, and find the first layer whose outputs differ. For two formats of one model, two
steps of one training, or a model and its quantized twin. Both must cut the text into the same tokens.

    luthier compare runs/book book.gguf "Once upon a time"
    luthier compare model-f32.gguf model-q8.gguf "Once upon a time" --tolerance 0.05
    luthier compare runs/book runs/book "Once upon a time" --quantize int4
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model_a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_A")]
    """A training run, a Hugging Face, Meta or OpenAI folder, a .gguf or .pth file, or hf:ORG/NAME."""
    model_b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_B")]
    """The other."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """What the models read; - reads it from stdin."""
    tolerance: float = 1e-3
    """Outputs differ where |a - b| / |a| of a token's vectors is over this. Rounding gives 1e-6 in float32, 1e-2 in
    bfloat16."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the numbers into this file too."""
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "float32"
    """Number type to compute in; auto takes that of each model's file."""
    quantize: Quantize = "no"
    """Keep MODEL_B's matrices in 8 or 4 bits, the rest of it in bfloat16; on a CPU."""


def main(arguments: list[str]) -> int:
    """Print the tables. 0 whether the models differ or not."""
    given = tyro.cli(Arguments, prog="luthier compare", description=ABOUT, args=arguments)
    if not 0 <= given.tolerance < float("inf"):
        raise UsageError(f"--tolerance {given.tolerance} must be a number from 0 on")
    text = text_or_stdin(given.text, "the text")
    a = open_model(given.model_a, given.device, given.dtype)
    dtype = given.dtype if given.quantize == "no" else "auto"
    b = open_model(given.model_b, given.device, dtype, given.quantize)

    from luthier.inspect.compare import compare

    tokens = same_tokens(a, b, text)
    found = compare(a.model, b.model, tokens)
    if given.json is not None:
        from luthier.files.atomic_file import write_file

        content = json.dumps(numbers(given, found, tokens), indent=2, allow_nan=False) + "\n"
        write_file(given.json, content, begins=b"{")
    show(found, given.tolerance, [escaped(a, token) for token in tokens])
    return 0


def same_tokens(a: LanguageModel, b: LanguageModel, text: str) -> list[int]:
    """The tokens of the text, if both models cut it alike."""
    from luthier.generation.generate import encode_prompts

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


def escaped(lm: LanguageModel, token: int) -> str:
    """A token as a terminal may show it."""
    from luthier.inspect.printable import printable

    return printable(lm.tokenizer.piece(token))


def show(found: Comparison, tolerance: float, words: list[str]) -> None:
    """The verdict, then the tables."""
    for line in verdict(found, tolerance):
        output(line)
    if found.differences:
        output(f"\n{'after':<24}{'|a-b|/|a|':>12}{'largest |a-b|':>16}  at token")
        for each in found.differences:
            mark = "*" if not each.relative <= tolerance else " "
            output(
                f"{mark} {each.name:<22}{each.relative:>12.2e}{each.largest:>16.2e}  {each.token} {words[each.token]}"
            )
    if found.tokens:
        output(f"\n{'place':>5}  {'p in a':>9}{'p in b':>11}{'b - a':>11}  token")
        for token in found.tokens:
            one, two = token.probability
            output(f"{token.place:>5}  {one:>9.3g}{two:>11.3g}{two - one:>+11.3g}  {words[token.place]}")


def verdict(found: Comparison, tolerance: float) -> list[str]:
    """What a person wants to know first."""
    first = found.first(tolerance)
    if not found.differences:
        lines = ["the models have other numbers of layers or dims: only their probabilities compare"]
    elif first is None:
        lines = [f"the models agree: no layer differs by more than {tolerance:g}"]
    else:
        lines = [f"the models part after {first.name}: {first.relative:.2e} is over {tolerance:g}"]
    if found.tokens:
        gaps = [abs(token.probability[0] - token.probability[1]) for token in found.tokens]
        lines.append(f"largest difference of a token's probability: {max(gaps):.3g}")
    return [*lines, f"mean divergence of what comes next: {found.divergence:.2e} bits"]


def numbers(given: Arguments, found: Comparison, tokens: list[int]) -> dict[str, Any]:
    """The content of the JSON file."""
    first = found.first(given.tolerance)
    return {
        "model_a": given.model_a,
        "model_b": given.model_b,
        "tolerance": given.tolerance,
        "first": None if first is None else first.name,
        "divergence_bits": finite(found.divergence),
        "differences": [line(each) for each in found.differences],
        "ids": tokens,
        "tokens": [
            {
                "place": token.place,
                "id": token.token,
                "a": finite(token.probability[0]),
                "b": finite(token.probability[1]),
            }
            for token in found.tokens
        ],
    }


def line(each: Difference) -> dict[str, Any]:
    """A difference by its names."""
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(each).items()}


def finite(value: float) -> float | None:
    """JSON has no infinity, and nothing that is no number."""
    return value if abs(value) < float("inf") else None
