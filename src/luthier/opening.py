"""Open a model where and as it is wanted: device and number type by name, or a model that is open already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.errors import UsageError, setting

if TYPE_CHECKING:
    from luthier.language_model import LanguageModel

Device = Literal["auto", "cpu", "cuda", "mps"]
NumberType = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["no", "int8", "int4"]


def open_model(
    path: str | os.PathLike[str], device: Device = "auto", dtype: NumberType = "auto", quantize: Quantize = "no"
) -> LanguageModel:
    """Open a model. device: auto takes cuda, then mps, then cpu. dtype: auto takes that of the model's file.

    quantize: the matrices in 8 or 4 bits, the rest in bfloat16, on the CPU.
    """
    import torch  # slow: the command line imports this module to know the names above

    from luthier.language_model import load
    from luthier.training.machine import choose_device, keep_freed_memory

    keep_freed_memory()
    number_type = None if dtype == "auto" else getattr(torch, dtype)
    if quantize == "no":
        return load(os.fspath(path), device=choose_device(device), dtype=number_type)
    chosen = "cpu" if device == "auto" else choose_device(device)
    return load(os.fspath(path), device=chosen, dtype=number_type, quantize=quantize)


def opened(
    model: str | os.PathLike[str] | LanguageModel, device: Device, dtype: NumberType, quantize: Quantize = "no"
) -> LanguageModel:
    """The model itself if it is open, else as `open_model` opens it.

    Raises a UsageError for a device, dtype or quantize beside an open model, which has its own.
    """
    if isinstance(model, (str, os.PathLike)):
        return open_model(model, device, dtype, quantize)
    given = {"device": (device, "auto"), "dtype": (dtype, "auto"), "quantize": (quantize, "no")}
    if wrong := [name for name, (value, usual) in given.items() if value != usual]:
        raise UsageError(f"the model is open already, and {setting(wrong[0])} says how to open one: leave it out")
    return model


def name_of(model: str | os.PathLike[str] | LanguageModel) -> str:
    """What a model is called in a table: its path, or its family where it was given open."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    from luthier.architectures import registry

    return registry.name_of(model.config)


def short_name(model: str | os.PathLike[str] | LanguageModel) -> str:
    """The last part of its path."""
    return Path(name_of(model)).name or name_of(model)
