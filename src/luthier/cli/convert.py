"""`luthier convert`: a model from one kind of file into another."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.errors import UsageError
from luthier.terminal.printing import note, warn
from luthier.terminal.progress import progress

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
    if given.quantize and given.to != "gguf":
        raise UsageError(f"--quantize is for --to gguf; the number type of {given.to} is set by --dtype")
    if given.shard_size != Arguments.shard_size and given.to != "hf":
        raise UsageError(f"--shard-size is for --to hf: {given.to} is written as one file")
    if not 1e-9 <= given.shard_size < math.inf:
        raise UsageError(f"--shard-size is {given.shard_size}: it must be a number above 0, in GB")
    from luthier.files.atomic_file import is_special
    from luthier.files.atomic_folder import is_free

    into_stream = given.to == "gguf" and is_special(given.out)
    if not into_stream and (not is_free(given.out) or (given.to == "gguf" and given.out.is_dir())):
        raise UsageError(f"{given.out} is already there: name a place that is not")
    import torch

    from luthier.language_model import load
    from luthier.model_files.gguf import caveats

    start = time.perf_counter()
    lm = load(given.model, dtype=None if given.dtype == "auto" else getattr(torch, given.dtype))
    shard_bytes = int(given.shard_size * 1e9)
    if given.to == "gguf":
        for caveat in caveats(lm.config):
            warn(caveat)
    total, last = sum(weight.nbytes for weight in lm.model.state_dict().values()), 0
    with progress(f"writing {given.out.name}", total) as advance:

        def watch(done: int, in_all: int) -> None:
            nonlocal last
            now = done * total // in_all
            advance(now - last)
            last = now

        lm.save(given.out, given.to, quantize=given.quantize, shard_bytes=shard_bytes, watch=watch)
    size = sum(file.stat().st_size for file in [given.out, *given.out.rglob("*")] if file.is_file())
    seconds = time.perf_counter() - start
    note(f"{given.out}: {given.to}, {size / 1e6:,.1f} MB, in {seconds:.1f} s")
    return 0
