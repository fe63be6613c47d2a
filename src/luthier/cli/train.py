"""`luthier train`: from a text to a model."""

from __future__ import annotations

from luthier.cli.run_arguments import OPTIONS, parse
from luthier.errors import interface

ABOUT = """Train a language model on a text.

    luthier train book.txt --out runs/book
    luthier train tiny-shakespeare --preset llama-micro --tokenizer characters --steps 2000
    luthier train --recipe course
    luthier train letters.txt --from SmolLM2-135M-Instruct.gguf --steps 200
    luthier train --out runs/book --resume
"""


def main(arguments: list[str]) -> int:
    """Train, or go on with a run."""
    with interface(OPTIONS):
        given = parse("train", ABOUT, arguments)
        from luthier.run.trained import carry_out

        carry_out(given.asked, given.data, given.options, given.model, anyway=given.anyway)
    return 0
