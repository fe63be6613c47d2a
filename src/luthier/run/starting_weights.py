"""Continued pretraining: a run that begins with the weights of a model instead of new ones.

The run takes the model's tokenizer and shape. Only its context may be shorter, and dropout is chosen anew. Once begun,
the run needs the model no more: its checkpoints have the weights, and its recipe the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.config import from_table, to_table
from luthier.errors import LuthierError, UsageError, of_model, setting
from luthier.language_model import LanguageModel, load
from luthier.tokenizers.core.cleaning import FORMS
from luthier.tokenizers.core.tokenizer import Tokenizer

# a tenth of the rate for new weights: docs/experiments.md, 2026-11-25
DEFAULTS: dict[str, Any] = {"learning_rate": 1e-4}
POSITIONS = "position_embedding.weight"  # (context_length, dim), of models with learned positions


def open_source(name: str) -> LanguageModel:
    """The model to go on with, in float32, which training computes its updates in. Quantized weights are expanded.

    Raises a LuthierError where it does not open, or has no tokenizer.
    """
    lm = load(name, dtype=torch.float32)
    try:
        _ = lm.tokenizer
    except LuthierError as error:
        raise LuthierError(f"{name}: {error}") from None
    return lm


def run_name(name: str) -> str:
    """The name of a run that goes on with a model."""
    return f"{Path(name).stem}-continued"


def settings_for(name: str, source: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Settings that a source decides, and the defaults that differ for continued pretraining.

    given: the fields that recipe and command line give. Raises a UsageError for those that contradict the source.
    """
    family = registry.name_of(source)
    if given.get("preset", family) != family:
        raise contradiction("preset", given["preset"], "the model has its own shape")
    if given.get("tokenizer", name) != name:
        raise contradiction("tokenizer", given["tokenizer"], "the model has its own tokenizer")
    if given.get("vocab_size"):
        raise contradiction("vocab_size", given["vocab_size"], "the model has its own vocabulary")
    return {**DEFAULTS, **given, "preset": family, "tokenizer": name, "from_model": name}


def config_of_run(given: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Config:
    """The Config that the recipe of a run holds, whole, so that the source need not be there any more.

    given: the fields of Settings; their preset is the family. model: every field of its Config.
    """
    family = registry.FAMILIES.get(str(given.get("preset")))
    if family is None:
        raise UsageError(f"{where}: from_model needs the model {given['from_model']}, which is not opened here")
    config: Config = from_table(family.config, model, f"[model] in {where}")
    return config


def contradiction(name: str, value: object, reason: str) -> UsageError:
    """The error for a setting that the source decides."""
    return UsageError(
        f"{setting(name, value)} contradicts {setting('from_model')}: {reason}, leave {setting(name)} out"
    )


def config_for(source: Config, model: Mapping[str, Any], where: str) -> Config:
    """The source's Config with a shorter context and another dropout, where `model` gives them; dropout is 0 else.

    Raises a UsageError for a field of `model` that contradicts the source.
    """
    wanted = from_table(type(source), {**to_table(source), "dropout": 0.0, **model}, f"[model] in {where}")
    for field in fields(source):
        name, value = field.name, getattr(wanted, field.name)
        if name == "dropout" or value == getattr(source, name):
            continue
        if name != "context_length":
            raise UsageError(
                f"{of_model(name, value)} contradicts the model of {setting('from_model')}, where it is "
                f"{getattr(source, name)}: only {of_model('dropout')} and a shorter {of_model('context_length')} may "
                "be chosen"
            )
        if value > source.context_length:
            raise UsageError(
                f"{of_model(name, value)} is more than the {source.context_length:,} tokens that the model of "
                f"{setting('from_model')} was made for"
            )
    return wanted


def with_config(lm: LanguageModel, config: Config) -> LanguageModel:
    """The model with another dropout or a shorter context; its weights are the same, and not copied."""
    if lm.config == config:
        return lm
    model = registry.build_on_meta(config)
    weights = lm.model.state_dict()
    if lm.model.tie_embeddings:
        del weights["output.weight"]
    if POSITIONS in weights:
        weights[POSITIONS] = weights[POSITIONS][: config.context_length].clone()
    registry.assign_weights(model, weights)
    return LanguageModel(model, lm.tokenizer, config)


def check_same_tokenizer(prepared: Tokenizer, lm: LanguageModel, place: Path) -> None:
    """A UsageError where a prepared folder was encoded with another tokenizer than the source's.

    `luthier data prepare` adds the normalization of the text to the tokenizer.
    """
    if prepared.fingerprint not in {lm.tokenizer.with_cleaning(form).fingerprint for form in FORMS}:
        raise UsageError(
            f"{place} was prepared with another tokenizer than that of the model of {setting('from_model')}: prepare "
            "the text with the model as its tokenizer"
        )


def started(lm: LanguageModel, config: Config, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """The model as the run begins with it: with the run's config and tokenizer, on its device."""
    changed = with_config(lm, config)
    return LanguageModel(changed.model.to(device), tokenizer, changed.config)
