"""`luthier.ladder`: another name of `luthier.ablate(base="gpt2", to="llama4")`, with a page of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.run.request import Data
from luthier.study.ablation import ablate
from luthier.study.results import Training


def ladder(
    data: Data = (),
    *,
    out: str | os.PathLike[str] = "ladder.html",
    size: Literal["nano", "micro", "mini"] = "nano",
    seeds: int = 3,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    model: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> list[Training]:
    """Train GPT-2 and then, part by part, what leads to Llama 4, each with as many parameters and tokens.

        >>> tiny = {"dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 300}
        >>> trainings = luthier.ladder("book.txt", out="ladder.html", seeds=1, steps=1, batch_size=2, model=tiny)
        >>> trainings[0].loss
        5...

    Writes the page `out` after each training, and its data beside it as JSON; the study itself is a folder NAME-study
    beside it, with which `resume` goes on. size: of the models, as the presets have
    it. seeds: trainings of each variant. model: fields of GPT-2's Config to change. Raises a UsageError for a setting
    out of its range.
    """
    page = Path(out)
    return ablate(
        data, base="gpt2", to="llama4", size=size, seeds=seeds, steps=steps, batch_size=batch_size,
        learning_rate=learning_rate, device=device, model=model, page=page,
        out=page.with_name(f"{page.stem}-study"), resume=resume,
    )  # fmt: skip
