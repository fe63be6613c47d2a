"""Opening the model that a command line names, where and as it is wanted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from luthier.generation.draft import Draft
    from luthier.language_model import LanguageModel

Device = Literal["auto", "cpu", "cuda", "mps"]
NumberType = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["no", "int8", "int4"]


def open_model(path: str, device: Device, dtype: NumberType, quantize: Quantize = "no") -> LanguageModel:
    """The model. device: auto takes cuda, then mps, then cpu. dtype: auto takes that of the model's file.

    quantize: the matrices in 8 or 4 bits, the rest in bfloat16, on the CPU.
    """
    with everything_stays():
        import torch

        from luthier.language_model import load
        from luthier.training.machine import choose_device, keep_freed_memory

        keep_freed_memory()
        number_type = None if dtype == "auto" else getattr(torch, dtype)
        if quantize == "no":
            return load(path, device=choose_device(device), dtype=number_type)
        return load(
            path, device="cpu" if device == "auto" else choose_device(device), dtype=number_type, quantize=quantize
        )


@contextmanager
def everything_stays() -> Iterator[None]:
    """Do not look for garbage: PyTorch's modules are a million objects that stay, and going through them again and
    again takes a fifth of the start.
    """
    gc.disable()
    try:
        yield
        gc.freeze()  # nor later
    finally:
        gc.enable()


def open_draft(path: str | None, large: LanguageModel) -> Draft | None:
    """The model that guesses for a large one, on its device; None if none is named.

    On the CPU its matrices take 4 bits: guesses change no text, and come soonest so.
    """
    if path is None:
        return None
    from luthier.language_model import load

    if large.device.type == "cpu":
        return load(path, quantize="int4").draft_for(large, path)
    return load(path, device=large.device, dtype=large.dtype).draft_for(large, path)
