"""Write a model in another format: a Hugging Face folder, a GGUF file, or a folder as Meta publishes them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

from luthier.errors import UsageError, setting
from luthier.files.atomic_file import is_special
from luthier.files.atomic_folder import is_free
from luthier.language_model import LanguageModel
from luthier.model_files.gguf import caveats
from luthier.opening import NumberType, open_model
from luthier.terminal.printing import warn
from luthier.terminal.progress import progress

Format = Literal["hf", "gguf", "meta"]
Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]
SHARD_SIZE = 5.0  # GB


def convert(
    model: str | os.PathLike[str] | LanguageModel,
    out: str | os.PathLike[str],
    format: Format,
    *,
    quantize: Kind | None = None,
    dtype: NumberType = "auto",
    shard_size: float = SHARD_SIZE,
) -> Path:
    """Write a model in another format; it stays as it is. Returns the path of what was written.

        >>> luthier.convert("runs/book", "book.gguf", format="gguf", quantize="Q8_0")
        PosixPath('book.gguf')

    format: "hf", a folder for `transformers`; "gguf", a file for llama.cpp; "meta", a folder as Meta publishes Llama.
    quantize: number type of a GGUF file's matrices; that of the model unless given. dtype: number type of the weights
    otherwise. shard_size: largest size in GB of a file of weights in a Hugging Face folder.

    Raises a UsageError where `out` exists or settings do not go together, and a LuthierError where the model does not
    open or the format does not support it.
    """
    place = Path(out)
    if quantize and format != "gguf":
        raise UsageError(
            f"{setting('quantize')} is for {setting('format', 'gguf')}; the number type of {format} is set by "
            f"{setting('dtype')}"
        )
    if shard_size != SHARD_SIZE and format != "hf":
        raise UsageError(f"{setting('shard_size')} is for {setting('format', 'hf')}: {format} is written as one file")
    if not 1e-9 <= shard_size < math.inf:
        raise UsageError(f"{setting('shard_size')} is {shard_size}: it must be a number above 0, in GB")
    into_stream = format == "gguf" and is_special(place)
    if not into_stream and (not is_free(place) or (format == "gguf" and place.is_dir())):
        raise UsageError(f"{place} is already there: name a place that is not")
    lm = model if isinstance(model, LanguageModel) else open_model(model, "cpu", dtype)
    if format == "gguf":
        for caveat in caveats(lm.config):
            warn(caveat)
    total, last = sum(weight.nbytes for weight in lm.model.state_dict().values()), 0
    with progress(f"writing {place.name}", total) as advance:

        def watch(done: int, in_all: int) -> None:
            nonlocal last
            now = done * total // in_all
            advance(now - last)
            last = now

        lm.save(place, format, quantize=quantize, shard_bytes=int(shard_size * 1e9), watch=watch)
    return place
