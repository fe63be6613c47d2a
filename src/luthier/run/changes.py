"""Which settings may change when a run is resumed: one table, from which help, docs and errors are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from luthier.config import to_table
from luthier.errors import OPTIONS, UsageError, of_model, setting
from luthier.run.plan import Plan
from luthier.training.old_names import with_new_names

When = Literal["freely", "anyway", "never"]

FREELY = (
    "steps", "epochs", "eval_interval", "eval_batches", "sample_interval", "sample_prompt", "sample_tokens",
    "sample_temperature", "save_interval", "keep_checkpoints", "tensorboard", "device", "compile", "threads",
    "parallel", "activation_checkpointing", "non_finite", "spikes",
)  # fmt: skip
ANYWAY = (
    "data", "batches", "batch_size", "stride", "gradient_accumulation_steps", "optimizer", "learning_rate",
    "muon_learning_rate", "weight_decay", "beta1", "beta2", "max_grad_norm", "schedule", "warmup", "decay",
    "final_lr_fraction", "seed", "balance", "balance_rate", "precision", "model.dropout",
)  # fmt: skip
NEVER = (
    "preset", "from_model", "tokenizer", "vocab_size", "validation", "test", "split_by", "field", "document_separator",
    "normalization", "invalid",
)  # fmt: skip
ORDER_OF_BATCHES = {"batches", "batch_size", "stride", "gradient_accumulation_steps", "seed"}
DECIDED_ANEW = {
    "steps",
    "epochs",
    "compile",
    "device",
    "precision",
    "batch_size",
    "gradient_accumulation_steps",
}  # whether to compile

CONSEQUENCES = {
    "data": "the new text is encoded with the run's tokenizer; its batches start from the first",
    "batches": "batches continue at the same fraction of the epoch, in a new order",
    "batch_size": "batches continue at the same fraction of the epoch, in a new order",
    "stride": "batches continue at the same fraction of the epoch, in a new order",
    "gradient_accumulation_steps": "the length of a run counted in epochs changes with it",
    "optimizer": "the state of the new optimizer is reset",
    "seed": "batches continue at the same fraction of the epoch, in a new order; dropout masks are new",
    "schedule": "`continue` needs no --anyway: it continues from the current learning rate",
    "steps": "the learning rate follows its schedule over the new length; a jump is reported",
    "epochs": "the learning rate follows its schedule over the new length; a jump is reported",
    "compile": "sums are rounded differently",
    "device": "sums are rounded differently",
    "threads": "sums may be rounded differently",
    "parallel": "sums are computed in another order",
}


def when(name: str) -> When:
    """When a setting may change: `data`, a field of Settings, or `model.FIELD`."""
    if name in FREELY:
        return "freely"
    return "anyway" if name in ANYWAY else "never"


@dataclass(frozen=True)
class Difference:
    """A setting whose value has changed."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{named(self.name)} is {as_text(self.before)}, not {as_text(self.now)}"

    @property
    def when(self) -> When:
        """When it may change."""
        return "freely" if (self.name, self.now) == ("schedule", "continue") else when(self.name)


def as_text(value: Any) -> str:
    """A value in a message."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def differences(before: Plan, now: Plan) -> list[Difference]:
    """Every setting in which two plans differ: the model's first, then the data, then the others."""
    old, new = ({f"model.{key}": value for key, value in to_table(plan.model).items()} for plan in (before, now))
    old |= {"data": before.data, **to_table(before.settings)}
    new |= {"data": now.data, **to_table(now.settings)}
    names = dict.fromkeys([*old, *new])
    return [Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def changed_plan(
    plan: Plan,
    options: Mapping[str, Any],
    model: Mapping[str, Any],
    data: tuple[str, ...] = (),
    *,
    anyway: bool = False,
) -> Plan:
    """The plan of a resumed run, with the requested changes.

    options: fields of Settings; model: fields of the Config. Raises a UsageError that names each
    that may not change. New data are compared later, by content and not by name: see resumed_text.
    """
    changes = with_new_names(options)
    if changes.get("steps"):
        changes.setdefault("epochs", 0.0)
    if changes.get("epochs"):
        changes.setdefault("steps", 0)
    known = {item.name for item in fields(type(plan.model))}
    if unknown := [name for name in model if name not in known]:
        raise UsageError(f"the run's model has no {', '.join(unknown)}")
    now = Plan(data or plan.data, replace(plan.settings, **changes), replace(plan.model, **model))
    refuse([item for item in differences(plan, now) if item.name != "data"], anyway=anyway)
    return now


def refuse(found: Iterable[Difference], *, anyway: bool) -> None:
    """Raise a UsageError that names the forbidden differences, if any. --anyway is advised only where it helps."""
    found = list(found)
    never = [item for item in found if item.when == "never"]
    asked = [item for item in found if item.when == "anyway" and not anyway]
    if not never and not asked:
        return
    listed, anyway_ = "; ".join(map(str, never + asked)), setting("anyway", True)
    way_out = f"Leave that out, or start another run ({setting('out')})"
    if not never:
        way_out = f"Leave that out, add {anyway_} to go on so, or start another run ({setting('out')})"
    elif asked:
        way_out += f"; {', '.join(named(item.name) for item in asked)} may change with {anyway_}"
    raise UsageError(f"the run was started with other settings: {listed}. {way_out}")


def named(name: str) -> str:
    """A setting in a message, as its reader writes it."""
    if name.startswith("model."):
        option = of_model(name.removeprefix("model."))
        return option if option.startswith("--") else name
    return "data" if name == "data" else setting(name)


def option(name: str) -> str:
    """The name of a setting on the command line."""
    return "DATA" if name == "data" else "--" + OPTIONS.get(name, name).replace("_", "-")


def word(name: str) -> str:
    """The name of a setting within the help: as the option has it, without its dashes."""
    return option(name).removeprefix("--")


def resume_help() -> str:
    """The help of --resume."""
    return f"Go on with the run in --out where it stopped. May change: {', '.join(map(word, FREELY))}."


def anyway_help() -> str:
    """The help of --anyway."""
    return f"With --resume: let these change too: {', '.join(map(word, ANYWAY))}."


def table() -> str:
    """The table of the docs, in Markdown."""
    lines = ["| setting | may change with `--resume` | then |", "|---|---|---|"]
    names = [*FREELY, *ANYWAY, *NEVER, "model.*"]
    words = {"freely": "yes", "anyway": "with `--anyway`", "never": "no: start another run"}
    for name in names:
        shown = "`--model.*` but dropout" if name == "model.*" else f"`{option(name)}`"
        lines.append(f"| {shown} | {words[when(name)]} | {CONSEQUENCES.get(name, '')} |")
    return "\n".join(lines) + "\n"
