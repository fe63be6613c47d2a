"""Opening the model that a command line names, where and as it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.errors import UsageError

if TYPE_CHECKING:
    from luthier.language_model import LanguageModel

Device = Literal["auto", "cpu", "cuda", "mps"]
NumberType = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["no", "int8", "int4"]


def open_model(path: str, device: Device, dtype: NumberType, quantize: Quantize = "no") -> LanguageModel:
    """The model. device: auto takes cuda, then mps, then cpu. dtype: auto takes that of the model's file.

    quantize: the matrices in 8 or 4 bits, the rest in bfloat16, on the CPU.
    """
    import torch

    from luthier.language_model import LanguageModel, load
    from luthier.training.machine import choose_device, keep_freed_memory

    keep_freed_memory()
    if quantize != "no":
        if device not in ("auto", "cpu") or dtype not in ("auto", "bfloat16"):
            raise UsageError(f"quantize {quantize} computes in bfloat16 on the cpu: leave --device and --dtype out")
        from luthier.model_files import hub, quantized

        opened = quantized.read(hub.fetch(path) if path.startswith(hub.PREFIX) else Path(path), quantize)
        return LanguageModel(opened.model, opened.tokenizer, opened.config)
    return load(path, device=choose_device(device), dtype=None if dtype == "auto" else getattr(torch, dtype))
