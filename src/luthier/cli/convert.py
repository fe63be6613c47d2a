"""`luthier convert`: a model from one kind of file into another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.terminal.printing import note

ABOUT = """Write a model in another format. MODEL is anything that opens; it stays as it is.

    luthier convert runs/book book.gguf --to gguf
    luthier convert runs/book book.gguf --to gguf --quantize Q8_0
    luthier convert Llama-3.2-1B/original llama --to hf
    luthier convert hf:HuggingFaceTB/SmolLM2-135M smol --to meta
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A training run, a Hugging Face, Meta or OpenAI folder, a .gguf or .pth file, or hf:ORG/NAME."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or file to write. It must not exist."""
    to: Literal["hf", "gguf", "meta"]
    """hf: a folder that transformers opens. gguf: a file for llama.cpp. meta: a folder as Meta publishes them."""
    quantize: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"] | None = None
    """Number type of a GGUF file's matrices; that of the model if not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto keeps that of the model's file."""
    shard_size: float = 5.0
    """Largest size of a file of weights in a Hugging Face folder, in GB."""


def main(arguments: list[str]) -> int:
    """Open, write, and say what was written."""
    given = tyro.cli(Arguments, prog="luthier convert", description=ABOUT, args=arguments)
    from luthier.conversion import convert

    start = time.perf_counter()
    convert(
        given.model, given.out, given.to, quantize=given.quantize, dtype=given.dtype, shard_size=given.shard_size
    )  # fmt: skip
    size = sum(file.stat().st_size for file in [given.out, *given.out.rglob("*")] if file.is_file())
    seconds = time.perf_counter() - start
    note(f"{given.out}: {given.to}, {size / 1e6:,.1f} MB, in {seconds:.1f} s")
    return 0
