"""`luthier compare`: where two models part, by layer and by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.cli.texts import text_or_stdin
from luthier.opening import Device, NumberType, Quantize
from luthier.terminal.printing import output

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
    text = text_or_stdin(given.text, "the text")
    from luthier.inspect.compare_texts import compare

    found = compare(
        given.model_a, given.model_b, text, tolerance=given.tolerance, device=given.device, dtype=given.dtype,
        quantize=given.quantize,
    )  # fmt: skip
    if given.json is not None:
        from luthier.files.atomic_file import write_file

        content = json.dumps(found.record(), indent=2, allow_nan=False) + "\n"
        write_file(given.json, content, begins=b"{")
    for line in found.lines():
        output(line)
    return 0
