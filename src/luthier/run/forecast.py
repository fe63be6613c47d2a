"""`luthier plan`: a run's cost as a table, with the time that it will take here, from a few timed steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import registry
from luthier.errors import setting
from luthier.files.unfinished import scratch_folder
from luthier.memory import total_memory
from luthier.native.program import unsupported_reason
from luthier.run import corpus
from luthier.run.cost import Cost, estimate
from luthier.run.idle_settings import say_idle, say_vocabulary
from luthier.run.length import Amount, amount_of, is_open, length_of
from luthier.run.plan import Plan, with_vocabulary
from luthier.run.request import Data, basis_of, given_settings, names_of
from luthier.run.timing import time_steps
from luthier.run.token_splits import TokenSplits, steps_in_all
from luthier.terminal.durations import duration
from luthier.terminal.printing import output_table
from luthier.terminal.tables import html_table, text_table
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.training.machine import (
    choose_device,
    has_fast_bfloat16,
    keep_freed_memory,
    matrix_product_peak,
)


@dataclass(frozen=True, repr=False)
class Forecast:
    """A plan, its cost, and what it will take here. As text and in a notebook it is a table."""

    plan: Plan
    cost: Cost
    device: str
    memory: int  # bytes that it has
    training_tokens: int | None  # of the text, when one is given
    steps: int | None  # None: without a text or --steps there is no end to count
    step_seconds: float | None  # None: too large for this machine, nothing was timed
    peak: float  # FLOP/s of a matrix product

    def __repr__(self) -> str:
        return f"{title(self)}\n{text_table(rows(self))}"

    def _repr_html_(self) -> str:
        return html_table([("", title(self)), *rows(self)])


def forecast(plan: Plan, *, with_data: bool, tokenizer: Tokenizer | None = None) -> Forecast:
    """Count, and time a few uncompiled steps where the machine can hold them."""
    keep_freed_memory()
    settings = plan.settings
    device = choose_device(settings.device)
    tokens, steps = None, settings.steps or None
    if with_data:
        plan, tokens, steps, amount = count_tokens(plan, tokenizer)
    low = settings.precision == "bfloat16" or (settings.precision == "auto" and has_fast_bfloat16(device))
    dtype = torch.bfloat16 if low else torch.float32
    cost = estimate(plan)
    memory = total_memory(device)
    fits = cost.memory < 0.8 * memory
    seconds = time_steps(plan, device, dtype) * settings.gradient_accumulation_steps if fits else None
    if with_data and seconds is not None and is_open(settings):
        steps = length_of(settings, seconds, amount).steps
    return Forecast(plan, cost, device.type, memory, tokens, steps, seconds, matrix_product_peak(device, dtype))


def count_tokens(plan: Plan, given: Tokenizer | None) -> tuple[Plan, int, int, Amount]:
    """Prepare the text in a folder that goes again. The plan with its vocabulary, its training tokens and its steps."""
    settings = plan.settings
    with scratch_folder("plan") as folder:
        tokenizer, place = corpus.prepare_tokens(plan.data, settings, plan.model.vocab_size, folder / "tokens", given)
        say_idle(plan, prepared=place != folder / "tokens", processes=0)
        say_vocabulary(plan, tokenizer.vocab_size)
        text, context = TokenSplits(place, tokenizer.pad_id or 0), plan.model.context_length
        steps = steps_in_all(settings, text.training_batches(settings, context))
        amount = amount_of(settings, context, text)
        return with_vocabulary(plan, tokenizer.vocab_size), len(text.train), steps, amount


def plan(
    data: Data = (),
    *,
    recipe: str | os.PathLike[str] | None = None,
    model: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Forecast:
    """What a run will cost in memory and time, without starting it, as `luthier plan` says it.

        >>> cost = luthier.plan("book.txt", preset="llama-nano", steps=100, vocab_size=300)
        >>> cost.steps, cost.cost.parameters
        (100, ...)
        >>> print(cost)
        llama-nano on ...
        parameters ...

    data: the text, whose tokens are then counted. Other arguments are those of `luthier.train`. Raises its errors.
    """
    given = given_settings(settings)
    asked = basis_of(given, recipe)
    names = names_of(data)
    return forecast(asked.plan(names, given, model or {}), with_data=bool(names), tokenizer=asked.tokenizer)


def title(forecast: Forecast) -> str:
    """What is planned, and where it would run."""
    return f"{forecast.plan.name} on {forecast.device}"


def rows(forecast: Forecast) -> list[tuple[str, str]]:
    """The table: (name, value) pairs."""
    plan, cost, settings = forecast.plan, forecast.cost, forecast.plan.settings
    tokens = settings.batch_size * plan.model.context_length
    found = [("parameters", f"{cost.parameters:,}")]
    if cost.active_parameters != cost.parameters:
        found.append(("active for a token", f"{cost.active_parameters:,}"))
    found += [
        ("FLOPs a token, in training", f"{cost.flops_per_token / 1e9:,.3g} G"),
        ("memory: weights", size(cost.weights)),
        ("memory: gradients", size(cost.gradients)),
        (f"memory: {settings.optimizer}", size(cost.optimizer)),
        (f"memory: activations of {settings.batch_size} x {plan.model.context_length} tokens", size(cost.activations)),
        ("memory: in all", f"{size(cost.memory)} of {size(forecast.memory)}"),
        ("a checkpoint on disk", size(cost.checkpoint)),
        ("the model on disk", size(cost.weights)),
    ]
    if forecast.training_tokens is not None:
        found.append(("training tokens in the text", f"{forecast.training_tokens:,}"))
    if forecast.step_seconds is None:
        found.append(("a step", "too large for this machine: nothing was timed"))
    else:
        speed = tokens * settings.gradient_accumulation_steps / forecast.step_seconds
        share = speed * cost.flops_per_token / forecast.peak
        found.append(
            ("a step, uncompiled", f"{forecast.step_seconds:,.3g} s, {speed:,.0f} tokens/s, {share:.0%} of peak")
        )
        if forecast.steps is not None:
            found.append((f"the run of {forecast.steps:,} steps", duration(forecast.steps * forecast.step_seconds)))
        else:
            found.append(("the run", f"name a text, or {setting('steps')}, to know"))
    found.append(("generation with the model", generation(plan)))
    return found


def show(forecast: Forecast) -> None:
    """Print the table."""
    output_table(rows(forecast), title=title(forecast))


def generation(plan: Plan) -> str:
    """What will compute the model when it generates text on the processor: the compiled step, or why not."""
    model = registry.build(plan.model, device="meta", dtype=torch.bfloat16).eval()
    reason = unsupported_reason(model)
    return "compiled, in bfloat16, int8 or int4" if reason is None else f"by PyTorch, not compiled: {reason}"


def size(n: float) -> str:
    """Bytes as people read them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{n / scale:,.2f} {unit}"
    return f"{n / 1e3:,.0f} kB"
