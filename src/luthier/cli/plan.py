"""`luthier plan`: what a run will cost, before it starts."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from luthier.cli.run_arguments import OPTIONS, parse
from luthier.errors import interface

ABOUT = """Say what a training run will cost, in memory and time, without starting it.

    luthier plan --preset gpt2-124m
    luthier plan book.txt --preset llama-mini --steps 2000
    luthier plan --preset llama4-scout
"""


def main(arguments: list[str]) -> int:
    """Print the cost of a run."""
    if arguments and not arguments[0].startswith("-"):
        from luthier.architectures.registry import preset, presets
        from luthier.data.sources import CORPORA

        if arguments[0] in presets():  # luthier plan gpt2-124m
            arguments = ["--preset", arguments[0], *arguments[1:]]
        elif not (arguments[0] in CORPORA or Path(arguments[0]).exists()) and get_close_matches(
            arguments[0], presets()
        ):
            preset(arguments[0])  # raises, and names the nearest
    with interface(OPTIONS):
        given = parse("plan", ABOUT, arguments)
        from luthier.run.forecast import forecast, show

        show(forecast(given.plan, with_data=bool(given.data), tokenizer=given.asked.tokenizer))
    return 0
