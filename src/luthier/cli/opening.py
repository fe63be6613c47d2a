"""Opening the model that a command line names, where and as it is wanted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier import opening
from luthier.opening import Device, NumberType, Quantize

if TYPE_CHECKING:
    from luthier.generation.draft import Draft
    from luthier.language_model import LanguageModel


def open_model(path: str, device: Device, dtype: NumberType, quantize: Quantize = "no") -> LanguageModel:
    """The model, as `luthier.opening.open_model` opens it, without looking for garbage on the way."""
    with everything_stays():
        return opening.open_model(path, device, dtype, quantize)


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
