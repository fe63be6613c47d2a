"""Settings that have no effect in combination with others: they are reported, never ignored silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.errors import of_model, remark, setting
from luthier.run.plan import Plan
from luthier.training.settings import Settings


class Rule(NamedTuple):
    """Settings that have no effect where `holds`, and why."""

    names: tuple[str, ...]
    holds: Callable[[Settings, Config], bool]
    reason: Callable[[], str]


RULES = (
    Rule(("decay",), lambda s, c: s.schedule != "wsd", lambda: f"it belongs to {setting('schedule', 'wsd')}"),
    Rule(
        ("final_lr_fraction",),
        lambda s, c: s.schedule == "constant",
        lambda: f"{setting('schedule', 'constant')} does not fall",
    ),
    Rule(
        ("muon_learning_rate",),
        lambda s, c: s.optimizer != "muon",
        lambda: f"it belongs to {setting('optimizer', 'muon')}",
    ),
    Rule(("balance", "balance_rate"), lambda s, c: not hasattr(c, "n_experts"), lambda: "the model has no experts"),
    Rule(
        ("balance_rate",),
        lambda s, c: s.balance == "none",
        lambda: f"{setting('balance', 'none')} leaves the load of experts alone",
    ),
    Rule(
        ("split_by",),
        lambda s, c: not s.test and (isinstance(s.validation, str) or not s.validation),
        lambda: "no share of the text is held out",
    ),
    Rule(("vocab_size",), lambda s, c: s.tokenizer != "bpe", lambda: "the tokenizer has its own vocabulary"),
)
OF_MODELS = (  # by the fields of a Config; compared with the preset's
    Rule(
        ("temperature_floor", "temperature_scale"),
        lambda s, c: not _of(c, "temperature_tuning"),
        lambda: "tuning is off",
    ),
    Rule(
        ("moe_every",),
        lambda s, c: _of(c, "moe_layers") is not None,
        lambda: f"{of_model('moe_layers')} names the layers",
    ),
    Rule(
        ("global_every",),
        lambda s, c: _of(c, "global_layers") is not None,
        lambda: f"{of_model('global_layers')} names the layers",
    ),
    Rule(
        ("attention_chunk",),
        lambda s, c: _of(c, "attention_chunk") >= c.context_length,
        lambda: "a chunk is no shorter than the context",
    ),
    Rule(
        ("dense_hidden_dim",),
        lambda s, c: _of(c, "moe_every") == 1 and _of(c, "moe_layers") is None,
        lambda: "every layer has experts",
    ),
)
OF_TEXT = (
    "tokenizer", "vocab_size", "validation", "test", "split_by", "field", "normalization", "invalid",
    "document_separator",
)  # fmt: skip


def idle_settings(plan: Plan, *, prepared: bool = False, processes: int = 1) -> Iterator[str]:
    """Settings that are given and have no effect, with the reason, a line each.

    prepared: the text is a prepared folder. processes: that train together.
    """
    settings, usual = plan.settings, Settings()
    if settings.from_model:  # it decides these, nobody set them
        usual = replace(usual, preset=settings.preset, tokenizer=settings.tokenizer)
    rules = list(RULES)
    if prepared:
        rules = [Rule(OF_TEXT, lambda s, c: True, lambda: "the text is prepared already"), *rules]
    if processes == 1:
        rules.append(Rule(("parallel",), lambda s, c: True, lambda: "one process trains alone"))
    said: set[str] = set()
    for rule in rules:
        if not rule.holds(settings, plan.model):
            continue
        for name in rule.names:
            value = getattr(settings, name)
            if value != getattr(usual, name) and name not in said:
                said.add(name)
                yield f"{setting(name, value)} has no effect: {rule.reason()}"
    if settings.from_model:
        return
    known, preset = {field.name for field in fields(plan.model)}, registry.preset(settings.preset)
    for rule in OF_MODELS:
        for name in known.intersection(rule.names):
            if getattr(plan.model, name) != getattr(preset, name) and rule.holds(settings, plan.model):
                named = of_model(name, getattr(plan.model, name))
                yield f"{named} has no effect: {rule.reason()}"


def say_idle(plan: Plan, *, prepared: bool, processes: int) -> None:
    """Remark on settings that have no effect."""
    for line in idle_settings(plan, prepared=prepared, processes=processes):
        remark(line)


def say_vocabulary(plan: Plan, vocab_size: int) -> None:
    """Remark on a vocabulary of another size than was asked for: a text may be too short for it."""
    if plan.settings.from_model:
        return
    of_preset = registry.preset(plan.settings.preset).vocab_size
    asked = plan.settings.vocab_size or (plan.model.vocab_size if plan.model.vocab_size != of_preset else 0)
    if not asked or asked == vocab_size:
        return
    if plan.settings.tokenizer == "bpe":
        remark(f"of {asked:,} tokens asked for, {vocab_size:,} were made: no more pairs of this text occur twice")
    elif not plan.settings.vocab_size:  # or it has been said
        named = of_model("vocab_size", asked)
        remark(f"{named} has no effect: the tokenizer has its own vocabulary of {vocab_size:,}")


def _of(config: Config, name: str) -> Any:
    return getattr(config, name)
