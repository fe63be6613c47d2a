"""Greedy text and beam search of a batch of unequal prompts: token for token those of transformers' `generate`."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from peers import SCALINGS, VOCAB, gpt2, llama, llama4, scaled, twin

from luthier.generation.generate import generate
from luthier.generation.settings import GenerationSettings

PEERS = {"gpt2": gpt2, "llama": llama, "llama4": llama4}
LENGTHS = (3, 9, 5)  # Llama 4's chunks are of 6 tokens
NEW_TOKENS = 12


class Numbers:
    """A tokenizer whose text is of no interest."""

    vocab_size = VOCAB
    special_tokens = MappingProxyType({})

    def __init__(self, ends):
        self.eos_ids = tuple(ends)

    def stream(self):
        return self

    def push(self, token):
        return f"{token} "

    def flush(self):
        return ""


def prompts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]


def theirs(peer, ends, **settings):
    """The new tokens of each prompt, by transformers, one prompt at a time: its Llama 4 is off when rows are padded."""
    return [go_on(peer, prompt, ends, **settings) for prompt in prompts()]


def go_on(peer, prompt, ends, **settings):
    out = peer.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=list(ends) or None,
        **settings,
    )
    return out[0, len(prompt) :].tolist()


def ours(peer, ends, **settings):
    settings = GenerationSettings(NEW_TOKENS, temperature=0, **settings)
    results = generate(twin(peer), Numbers(ends), prompts(), settings, context_length=64)
    for result in results:
        assert result.finish_reason == ("end" if result.ids[-1] in ends else "length")
    return [result.ids for result in results]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
def test_greedy_text_is_that_of_transformers(make, use_cache):
    peer = make()
    free = theirs(peer, ())
    assert ours(peer, (), use_cache=use_cache) == free
    ends = {free[0][4], free[1][7]}  # tokens that do come: rows end at different steps
    assert ours(peer, ends, use_cache=use_cache) == theirs(peer, ends)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -0.5])
@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
def test_beam_search_is_that_of_transformers(make, length_penalty):
    peer = make()
    for beams in (2, 5):
        free = theirs(peer, (), num_beams=beams, length_penalty=length_penalty)
        assert ours(peer, (), beams=beams, length_penalty=length_penalty) == free
        ends = {free[0][4], free[1][7], free[2][2]}
        expected = theirs(peer, ends, num_beams=beams, length_penalty=length_penalty)
        assert ours(peer, ends, beams=beams, length_penalty=length_penalty) == expected


def test_the_penalty_on_repetition_is_that_of_transformers():
    peer = gpt2()
    plain, penalized = theirs(peer, ()), theirs(peer, (), repetition_penalty=1.7)
    assert ours(peer, (), repetition_penalty=1.7) == penalized != plain


@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
def test_beam_search_penalizes_log_probabilities_as_transformers_does(make):
    peer = make()
    for penalty in (1.3, 1.8, 0.7):
        free = theirs(peer, (), num_beams=4, repetition_penalty=penalty)
        assert ours(peer, (), beams=4, repetition_penalty=penalty) == free
        ends = {free[0][4], free[1][7]}
        expected = theirs(peer, ends, num_beams=4, repetition_penalty=penalty)
        assert ours(peer, ends, beams=4, repetition_penalty=penalty) == expected
    assert free != theirs(peer, (), num_beams=4, repetition_penalty=1.8)


@pytest.mark.parametrize("name", SCALINGS)
def test_text_past_the_length_trained_on_is_that_of_transformers(name):
    peer = scaled(SCALINGS[name])
    assert ours(peer, ()) == theirs(peer, ())
