"""`luthier inspect`: a page that shows what a model does with a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.cli.texts import text_or_stdin
from luthier.opening import Device, NumberType, Quantize
from luthier.terminal.printing import note

ABOUT = """See inside a model as it reads a text: one HTML page that opens from disk, with no network. Surprise and
candidates of each token, attention by layer and head, what each layer would say, norms, experts, parameters and time.

    luthier inspect runs/book "Once upon a time"
    luthier inspect SmolLM2-135M-Instruct.gguf "The capital of France is" --out paris.html
    luthier inspect runs/book - < page.txt
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A training run, a Hugging Face, Meta or OpenAI folder, a .gguf or .pth file, or hf:ORG/NAME."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """What the model reads; - reads it from stdin."""
    out: Path = Path("report.html")
    """The page to write. One that is there is replaced."""
    max_tokens: int = 256
    """The page shows the first tokens only, so many; fewer for a model with many heads."""
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "auto"
    """Number type to compute in; auto takes that of the model's file."""
    quantize: Quantize = "no"
    """Keep the matrices in 8 or 4 bits, to see what that does; on a CPU."""


def main(arguments: list[str]) -> int:
    """Write the page, and say where it is."""
    given = tyro.cli(Arguments, prog="luthier inspect", description=ABOUT, args=arguments)
    text = text_or_stdin(given.text, "the text")
    from luthier.inspect.show import show

    page = show(
        given.model, text, out=given.out, max_tokens=given.max_tokens, device=given.device, dtype=given.dtype,
        quantize=given.quantize,
    )  # fmt: skip
    note(repr(page))
    if page.truncated:
        note(page.truncated)
    return 0
