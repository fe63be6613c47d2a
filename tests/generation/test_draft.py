"""A draft changes no token of a text, however good or bad it is; a good one saves steps."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from byte_models import CONFIGS, ByteTokenizer, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.architectures import gpt2, llama
from luthier.generation.ahead import FirstThatKnows, sample_ahead
from luthier.generation.draft import Draft, DraftGuesser
from luthier.generation.generate import encode_prompts, evaluating, generate, new_rows
from luthier.generation.reader import Reader
from luthier.generation.settings import Settings

law = settings(max_examples=15, deadline=None, derandomize=True, database=None)
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
    read = Reader.last_logits
    monkeypatch.setattr(
        Reader, "last_logits", lambda self, count: seen.append((self.model, count)) or read(self, count)
    )
    return seen


def test_tokens_read_at_once_are_those_read_one_by_one_but_for_rounding(model):
    """The laws below are of float32 without the compiled step: texts are the same unless two tokens come so close."""
    ids = torch.randint(257, (27,), generator=torch.Generator().manual_seed(1)).tolist()
    at_once, singly = (Reader(model, [ids[:10]], 17, vocab_size=257) for _ in range(2))
    found = []
    with torch.inference_mode(), evaluating(model):
        for reader in (at_once, singly):
            reader.logits()
        for token in ids[10:]:
            for reader in (at_once, singly):
                reader.append(torch.tensor([token]))
            found.append(singly.logits())
        torch.testing.assert_close(at_once.last_logits(17)[0], torch.cat(found), atol=2e-5, rtol=0)


@law
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
    chosen = Settings(new, temperature=temperature, repetition_penalty=penalty, seed=seed, use_cache=use_cache)
    [expected] = results_of(model, [prompt], chosen)
    draft = Draft(model, 48) if name == "itself" else DRAFTS[name]
    [result] = results_of(model, [prompt], chosen, draft)
    assert (result.ids, result.finish_reason) == (expected.ids, expected.finish_reason)
    assert result.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert result.came_true <= result.guesses


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_its_own_draft_is_always_right_and_saves_most_steps(model, temperature, steps):
    chosen = Settings(40, temperature=temperature, seed=3)
    tokenizer = ByteTokenizer()
    tokenizer.eos_ids = ()
    [row] = new_rows(tokenizer, [[97, 98]], chosen, 48)
    draft = Draft(deepcopy(model), 48)
    with torch.inference_mode(), evaluating(model), evaluating(draft.model):
        guesser = DraftGuesser(draft, row, chosen)
        list(sample_ahead(Reader(model, [row.prompt], row.room, vocab_size=257), row, chosen, guesser))
    assert row.result.came_true == row.result.guesses == 35
    assert [count for asked, count in steps if asked is model] == [1, 4, 7, 13, 15]  # 40 tokens in all


def test_guesses_that_never_come_true_become_few(model, steps):
    chosen = Settings(12, temperature=0)
    [expected] = results_of(model, ["ab"], chosen)
    steps.clear()

    class Wrong:
        def __init__(self):
            self.written = 0

        def add(self, token):
            assert token == expected.ids[self.written]
            self.written += 1

        def guess(self, most):
            return [(token + 1) % 257 for token in expected.ids[self.written : self.written + most]]

    [row] = new_rows(ByteTokenizer(), [[97, 98]], chosen, 48)
    with torch.inference_mode(), evaluating(model):
        list(sample_ahead(Reader(model, [row.prompt], row.room, vocab_size=257), row, chosen, Wrong()))
    assert row.result.ids == expected.ids
    assert row.result.came_true == 0
    assert [count for _, count in steps] == [1, 4, *[2] * 9, 1]


def test_where_the_drafts_context_ends_it_guesses_no_more(model):
    chosen, draft = Settings(40, temperature=0), DRAFTS["one that sees less"]  # 24 tokens
    for length, guessed in ((22, 3), (24, 1), (25, 0), (40, 0)):
        [row] = new_rows(ByteTokenizer(), [[120] * length], chosen, 48)
        with torch.inference_mode(), evaluating(draft.model):
            assert len(DraftGuesser(draft, row, chosen).guess(9)) == guessed
        [result] = results_of(model, ["x" * length], chosen, draft)
        assert result.ids == results_of(model, ["x" * length], chosen)[0].ids


def test_a_text_that_repeats_itself_is_looked_up_first():
    class Known:
        def __init__(self, tokens):
            self.tokens, self.added = tokens, []

        def add(self, token):
            self.added.append(token)

        def guess(self, most):
            return self.tokens[:most]

    knows, other = Known([]), Known([7, 8, 9])
    both = FirstThatKnows(knows, other)
    both.add(5)
    assert knows.added == other.added == [5]
    assert both.guess(2) == [7, 8]
    knows.tokens = [1]
    assert both.guess(2) == [1]
    other.tokens = knows.tokens = []
    assert both.guess(2) == []


@pytest.mark.parametrize("more", [{"samples": 2}, {"beams": 2}])
def test_several_rows_and_beams_go_without(model, more, steps):
    draft = DRAFTS["another"]
    [first, *_] = results_of(model, ["ab"], Settings(8, **more), draft)
    assert first == results_of(model, ["ab"], Settings(8, **more))[0]
    assert first.guesses == 0
    assert not any(asked is draft.model for asked, _ in steps)


def test_a_draft_is_asked_without_dropout_and_left_as_it_was(model):
    draft = Draft(small_model(gpt2.Config(257, 48, 32, 1, 2, dropout=0.5)).train(), 48)
    chosen = Settings(20, temperature=0)
    assert results_of(model, ["ab"], chosen, draft)[0].guesses == results_of(model, ["ab"], chosen, draft)[0].guesses
    assert draft.model.training


def test_what_was_guessed_wrong_is_forgotten(model):
    chosen = Settings(20, temperature=0)
    [row] = new_rows(ByteTokenizer(), [[97, 98]], chosen, 48)
    guesser = DraftGuesser(Draft(model, 48), row, chosen)
    with torch.inference_mode(), evaluating(model):
        first = guesser.guess(4)
        guesser.add(first[0])
        guesser.add((first[1] + 1) % 256)
        assert guesser.reader.tokens.tolist() == [[97, 98, first[0], (first[1] + 1) % 256]]
        fresh = Reader(model, guesser.reader.tokens.tolist(), 8, vocab_size=257)
        again = guesser.guess(3)
        assert again[0] == int(fresh.logits().argmax())
