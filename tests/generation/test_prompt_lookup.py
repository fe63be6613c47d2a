"""Look-up decoding writes the same text, in fewer steps."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from byte_models import CONFIGS, ByteTokenizer, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.generation import prompt_lookup
from luthier.generation.decoding_session import DecodingSession
from luthier.generation.generate import encode_prompts, generate
from luthier.generation.prompt_lookup import PromptLookup
from luthier.generation.settings import GenerationSettings

PAYS = prompt_lookup.is_worthwhile
property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True, scope="module")
def _always():
    """These models are in float32, which has no compiled step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            prompt_lookup, "is_worthwhile", lambda session, rows: len(rows) == 1 and session.cache is not None
        )
        yield


@contextmanager
def without_guesses():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_lookup, "is_worthwhile", lambda session, rows: False)
        yield


def ids_of(model, prompt, chosen):
    tokenizer = ByteTokenizer()
    [result] = generate(model, tokenizer, encode_prompts(tokenizer, [prompt]), chosen, 48)
    return result.ids, result.finish_reason, [round(logprob, 3) for logprob in result.logprobs]


@property_test
@given(
    prompt=st.text("ab", min_size=1, max_size=30),
    temperature=st.sampled_from([0.0, 0.7]),
    penalty=st.sampled_from([1.0, 1.2]),
    new=st.integers(1, 40),
)
def test_the_text_is_the_same_to_the_token(model, prompt, temperature, penalty, new):
    chosen = GenerationSettings(new, temperature=temperature, repetition_penalty=penalty)
    with without_guesses():
        expected = ids_of(model, prompt, chosen)
    assert ids_of(model, prompt, chosen) == expected


def test_guesses_are_what_followed_the_last_time():
    guesser = PromptLookup([1, 2, 3, 4, 5, 1, 2])
    assert guesser.draft(3) == [3, 4, 5]
    assert guesser.draft(1) == [3]
    guesser.add(9)
    assert guesser.draft(3) == []
    for token in (1, 2):
        guesser.add(token)
    assert guesser.draft(2) == [9, 1]  # the latest of several places
    assert PromptLookup([7]).draft(5) == []


def test_a_text_that_repeats_itself_takes_fewer_steps(monkeypatch):
    steps = []
    read = DecodingSession.last_logits
    monkeypatch.setattr(DecodingSession, "last_logits", lambda self, count: steps.append(count) or read(self, count))
    model = small_model(CONFIGS["gpt2"])
    text, *_ = ids_of(model, "Hello", GenerationSettings(40, temperature=0))
    looping = len(set(pairwise(text))) < len(text) - 8  # a small greedy model falls into a loop
    assert looping
    assert len(steps) < len(text) - 8
    assert max(steps) > 1


def test_guesses_are_for_a_single_text_and_the_compiled_step():
    session = DecodingSession(small_model(CONFIGS["gpt2"]), [[1]], 4, vocab_size=257)
    assert not PAYS(session, [None])
    session.step = SimpleNamespace(is_valid=lambda: True)
    assert PAYS(session, [None])
    assert not PAYS(session, [None, None])


def test_a_prompt_read_in_pieces_gives_the_same_logits(model, monkeypatch):
    texts = [list(range(40)), list(range(3, 20))]
    with torch.inference_mode():
        whole = DecodingSession(model.eval(), texts, 4, vocab_size=257)
        expected = whole.logits()
        monkeypatch.setattr("luthier.generation.decoding_session.PREFILL_CHUNK", 7)
        pieces = DecodingSession(model, texts, 4, vocab_size=257)
        torch.testing.assert_close(pieces.logits(), expected, atol=1e-4, rtol=1e-4)
        for session in (whole, pieces):
            session.append(torch.tensor([5, 6]))
        torch.testing.assert_close(pieces.logits(), whole.logits(), atol=1e-4, rtol=1e-4)
