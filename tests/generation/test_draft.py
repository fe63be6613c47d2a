"""A draft changes no token of a text, however good or bad it is; a good one saves steps."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from byte_models import CONFIGS, ByteTokenizer, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.architectures import gpt2, llama
from luthier.generation.decoding_session import DecodingSession
from luthier.generation.draft import Draft, ModelDrafter
from luthier.generation.generate import encode_prompts, eval_mode, generate, new_sequences
from luthier.generation.settings import GenerationSettings
from luthier.generation.speculative import DrafterChain, sample_speculatively

property_test = settings(max_examples=15, deadline=None, derandomize=True, database=None)
DRAFTS = {
    "another": Draft(small_model(llama.Config(257, 48, 32, 64, 1, 2, 1), seed=5), 48),
    "one that sees less": Draft(small_model(gpt2.Config(257, 24, 32, 1, 2), seed=6), 24),
    "one with local layers": Draft(small_model(CONFIGS["llama4"], seed=7), 48),
}


def results_of(model, prompts, chosen, draft=None):
    tokenizer = ByteTokenizer()
    return generate(model, tokenizer, encode_prompts(tokenizer, prompts), chosen, 48, draft)


@pytest.fixture
def steps(monkeypatch):
    """Each step: the model, and after how many tokens it was asked what comes next."""
    seen = []
    read = DecodingSession.last_logits
    monkeypatch.setattr(
        DecodingSession, "last_logits", lambda self, count: seen.append((self.model, count)) or read(self, count)
    )
    return seen


def test_tokens_read_at_once_are_those_read_one_by_one_but_for_rounding(model):
    """The invariants below are for float32 without the compiled step: texts are equal but for near ties."""
    ids = torch.randint(257, (27,), generator=torch.Generator().manual_seed(1)).tolist()
    at_once, singly = (DecodingSession(model, [ids[:10]], 17, vocab_size=257) for _ in range(2))
    found = []
    with torch.inference_mode(), eval_mode(model):
        for session in (at_once, singly):
            session.logits()
        for token in ids[10:]:
            for session in (at_once, singly):
                session.append(torch.tensor([token]))
            found.append(singly.logits())
        torch.testing.assert_close(at_once.last_logits(17)[0], torch.cat(found), atol=2e-5, rtol=0)


@property_test
@given(
    prompt=st.text("ab é", min_size=1, max_size=20),
    name=st.sampled_from([*DRAFTS, "itself"]),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    penalty=st.sampled_from([1.0, 1.2]),
    new=st.integers(1, 40),
    seed=st.integers(0, 1000),
    use_cache=st.booleans(),
)
def test_the_text_is_the_same_to_the_token(model, prompt, name, temperature, penalty, new, seed, use_cache):
    chosen = GenerationSettings(
        new, temperature=temperature, repetition_penalty=penalty, seed=seed, use_cache=use_cache
    )
    [expected] = results_of(model, [prompt], chosen)
    draft = Draft(model, 48) if name == "itself" else DRAFTS[name]
    [result] = results_of(model, [prompt], chosen, draft)
    assert (result.ids, result.finish_reason) == (expected.ids, expected.finish_reason)
    assert result.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert result.accepted <= result.drafted


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_its_own_draft_is_always_right_and_saves_most_steps(model, temperature, steps):
    chosen = GenerationSettings(40, temperature=temperature, seed=3)
    tokenizer = ByteTokenizer()
    tokenizer.eos_ids = ()
    [row] = new_sequences(tokenizer, [[97, 98]], chosen, 48)
    draft = Draft(deepcopy(model), 48)
    with torch.inference_mode(), eval_mode(model), eval_mode(draft.model):
        guesser = ModelDrafter(draft, row, chosen)
        list(sample_speculatively(DecodingSession(model, [row.prompt], row.room, vocab_size=257), row, chosen, guesser))
    assert row.result.accepted == row.result.drafted == 35
    assert [count for asked, count in steps if asked is model] == [1, 4, 7, 13, 15]  # 40 tokens in all


def test_guesses_that_never_come_true_become_few(model, steps):
    chosen = GenerationSettings(12, temperature=0)
    [expected] = results_of(model, ["ab"], chosen)
    steps.clear()

    class Wrong:
        def __init__(self):
            self.written = 0

        def add(self, token):
            assert token == expected.ids[self.written]
            self.written += 1

        def draft(self, most):
            return [(token + 1) % 257 for token in expected.ids[self.written : self.written + most]]

    [row] = new_sequences(ByteTokenizer(), [[97, 98]], chosen, 48)
    with torch.inference_mode(), eval_mode(model):
        list(sample_speculatively(DecodingSession(model, [row.prompt], row.room, vocab_size=257), row, chosen, Wrong()))
    assert row.result.ids == expected.ids
    assert row.result.accepted == 0
    assert [count for _, count in steps] == [1, 4, *[2] * 9, 1]


def test_where_the_drafts_context_ends_it_guesses_no_more(model):
    chosen, draft = GenerationSettings(40, temperature=0), DRAFTS["one that sees less"]  # 24 tokens
    for length, guessed in ((22, 3), (24, 1), (25, 0), (40, 0)):
        [row] = new_sequences(ByteTokenizer(), [[120] * length], chosen, 48)
        with torch.inference_mode(), eval_mode(draft.model):
            assert len(ModelDrafter(draft, row, chosen).draft(9)) == guessed
        [result] = results_of(model, ["x" * length], chosen, draft)
        assert result.ids == results_of(model, ["x" * length], chosen)[0].ids


def test_a_text_that_repeats_itself_is_looked_up_first():
    class Known:
        def __init__(self, tokens):
            self.tokens, self.added = tokens, []

        def add(self, token):
            self.added.append(token)

        def draft(self, most):
            return self.tokens[:most]

    knows, other = Known([]), Known([7, 8, 9])
    both = DrafterChain(knows, other)
    both.add(5)
    assert knows.added == other.added == [5]
    assert both.draft(2) == [7, 8]
    knows.tokens = [1]
    assert both.draft(2) == [1]
    other.tokens = knows.tokens = []
    assert both.draft(2) == []


@pytest.mark.parametrize("more", [{"samples": 2}, {"beams": 2}])
def test_several_rows_and_beams_go_without(model, more, steps):
    draft = DRAFTS["another"]
    [first, *_] = results_of(model, ["ab"], GenerationSettings(8, **more), draft)
    assert first == results_of(model, ["ab"], GenerationSettings(8, **more))[0]
    assert first.drafted == 0
    assert not any(asked is draft.model for asked, _ in steps)


def test_a_draft_is_asked_without_dropout_and_left_as_it_was(model):
    draft = Draft(small_model(gpt2.Config(257, 48, 32, 1, 2, dropout=0.5)).train(), 48)
    chosen = GenerationSettings(20, temperature=0)
    assert results_of(model, ["ab"], chosen, draft)[0].drafted == results_of(model, ["ab"], chosen, draft)[0].drafted
    assert draft.model.training


def test_what_was_guessed_wrong_is_forgotten(model):
    chosen = GenerationSettings(20, temperature=0)
    [row] = new_sequences(ByteTokenizer(), [[97, 98]], chosen, 48)
    guesser = ModelDrafter(Draft(model, 48), row, chosen)
    with torch.inference_mode(), eval_mode(model):
        first = guesser.draft(4)
        guesser.add(first[0])
        guesser.add((first[1] + 1) % 256)
        assert guesser.session.tokens.tolist() == [[97, 98, first[0], (first[1] + 1) % 256]]
        fresh = DecodingSession(model, guesser.session.tokens.tolist(), 8, vocab_size=257)
        again = guesser.draft(3)
        assert again[0] == int(fresh.logits().argmax())
