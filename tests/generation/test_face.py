"""`LanguageModel.generate` and `.stream`: what people call."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
from byte_models import CONFIGS, small_model

from luthier.errors import LuthierError, UsageError
from luthier.generation.settings import GenerationSettings
from luthier.language_model import LanguageModel


@pytest.fixture
def lm(gpt2_model, tokenizer):
    return LanguageModel(gpt2_model, tokenizer, CONFIGS["gpt2"])


def test_a_prompt_or_a_list_of_prompts_gives_a_list_of_texts(lm):
    texts = lm.generate(["Hello", "you"], max_new_tokens=10)
    assert len(texts) == 2
    assert all(isinstance(text, str) and text for text in texts)
    assert lm.generate("Hello", max_new_tokens=10) == texts[:1]
    assert lm.generate([]) == []


def test_a_stream_joins_to_the_text(lm):
    chosen = {"temperature": 1.5, "top_k": 50, "max_new_tokens": 30, "seed": 3}
    pieces = list(lm.stream("Hello", **chosen))
    assert len(pieces) > 5
    assert "".join(pieces) == lm.generate("Hello", **chosen)[0]


def test_every_setting_reaches_the_text(lm):
    plain = lm.generate("Hello", max_new_tokens=12)
    changes = {
        "max_new_tokens": 5,
        "temperature": 0,
        "top_k": 2,
        "top_p": 0.1,
        "min_p": 0.9,
        "repetition_penalty": 20.0,
        "beams": 4,
        "samples": 2,
        "stop": plain[0][1],
        "seed": 8,
    }
    for name, value in changes.items():
        assert lm.generate("Hello", **{"max_new_tokens": 12, name: value}) != plain, name
    assert lm.generate("Hello", max_new_tokens=12, use_cache=False) == plain
    lengths = [len(lm.generate("Hello", beams=3, stop=["\x02", "o"], length_penalty=p)[0]) for p in (-5, 5)]
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("method", [LanguageModel.generate, LanguageModel.stream])
def test_defaults_are_those_of_the_settings(method):
    defaults = {item.name: item.default for item in fields(GenerationSettings)}
    named = {name: p.default for name, p in inspect.signature(method).parameters.items() if name in defaults}
    assert named == {name: defaults[name] for name in named}
    assert method is LanguageModel.stream or named.keys() == defaults.keys()
    assert defaults.keys() - named.keys() <= {"beams", "length_penalty", "samples"}


def test_errors_come_at_the_call_not_at_the_first_piece(lm):
    with pytest.raises(UsageError, match="temperature"):
        lm.stream("Hello", temperature=-1)
    with pytest.raises(LuthierError, match="at most 47"):
        lm.stream("x" * 48)


def test_a_draft_writes_the_same_text(lm, monkeypatch):
    asked = []
    monkeypatch.setattr("luthier.language_model.check_vocabulary", lambda *given: asked.append(given))  # of real ones
    draft = LanguageModel(small_model(CONFIGS["llama"]), lm.tokenizer, CONFIGS["llama"])
    plain = lm.generate("Hello", max_new_tokens=20)
    assert lm.generate("Hello", max_new_tokens=20, draft=draft) == plain
    assert "".join(lm.stream("Hello", max_new_tokens=20, draft=draft)) == plain[0]
    assert len(asked) == 2
