"""Luthier builds, trains, opens up and serves language models from scratch.

    import luthier

    lm = luthier.load("runs/demo")
    print(lm.generate("Once upon a time", max_new_tokens=50)[0])

Importing this package costs nothing: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier import inspect
    from luthier.architectures.registry import build
    from luthier.errors import LuthierError
    from luthier.language_model import LanguageModel, load

__version__ = "0.1.0"
__all__ = ["LanguageModel", "LuthierError", "__version__", "build", "inspect", "load"]

_HOME = {
    "LanguageModel": "luthier.language_model",
    "LuthierError": "luthier.errors",
    "build": "luthier.architectures.registry",
    "load": "luthier.language_model",
}


def __getattr__(name: str) -> Any:
    if name == "inspect":  # a room, for luthier.inspect.record(...)
        return import_module("luthier.inspect")
    if name not in _HOME:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
