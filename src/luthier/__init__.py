"""Luthier builds, trains, opens up and serves language models from scratch.

    import luthier

    run = luthier.train("book.txt", preset="llama-nano", steps=200)
    lm = luthier.load("runs/llama-nano")
    print(lm.generate("Once upon a time", max_new_tokens=50)[0])

Every verb of the command line has a function here (docs/python.md). Importing this package costs nothing: torch is
imported when one of the names below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier import figures, inspect
    from luthier.architectures.registry import build
    from luthier.conversion import convert
    from luthier.data.sources import corpora
    from luthier.errors import LuthierError
    from luthier.evaluation.evaluate import evaluate
    from luthier.inspect.compare_texts import compare
    from luthier.language_model import LanguageModel, load
    from luthier.model_files.download_gpt2 import download
    from luthier.model_files.tokenize import tokenize
    from luthier.model_files.tokenizer_of import tokenizer
    from luthier.run.forecast import plan
    from luthier.run.prepare import prepare
    from luthier.run.report import report
    from luthier.run.trained import TrainedRun, open_run, train
    from luthier.run.verification import verify
    from luthier.study.ablation import ablate
    from luthier.study.ladder import ladder

__version__ = "0.1.0"
__all__ = [
    "LanguageModel",
    "LuthierError",
    "TrainedRun",
    "__version__",
    "ablate",
    "build",
    "compare",
    "convert",
    "corpora",
    "download",
    "evaluate",
    "figures",
    "inspect",
    "ladder",
    "load",
    "open_run",
    "plan",
    "prepare",
    "report",
    "tokenize",
    "tokenizer",
    "train",
    "verify",
]

_HOME = {
    "LanguageModel": "luthier.language_model",
    "LuthierError": "luthier.errors",
    "TrainedRun": "luthier.run.trained",
    "ablate": "luthier.study.ablation",
    "build": "luthier.architectures.registry",
    "compare": "luthier.inspect.compare_texts",
    "convert": "luthier.conversion",
    "corpora": "luthier.data.sources",
    "download": "luthier.model_files.download_gpt2",
    "evaluate": "luthier.evaluation.evaluate",
    "ladder": "luthier.study.ladder",
    "load": "luthier.language_model",
    "open_run": "luthier.run.trained",
    "plan": "luthier.run.forecast",
    "prepare": "luthier.run.prepare",
    "report": "luthier.run.report",
    "tokenize": "luthier.model_files.tokenize",
    "tokenizer": "luthier.model_files.tokenizer_of",
    "train": "luthier.run.trained",
    "verify": "luthier.run.verification",
}
_ROOMS = (
    "figures",
    "inspect",
)  # modules, for names such as luthier.inspect.record


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"luthier.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
