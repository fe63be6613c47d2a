"""Sample one token per row from logits: repetition penalty, temperature, filters, inverse transform sampling.

Shapes: B batch, V vocab_size, S tokens so far. Filtered tokens have the logit -inf.

Each filter computes one threshold per row and drops what lies below it. Tokens that tie with the last one kept stay:
the order in which a sort puts equals must not decide what can be sampled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luthier.generation.settings import GenerationSettings
from luthier.model.seeds import seeded

DROPPED = -math.inf


def penalize_repetition(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make tokens (B, S) of a text less likely: divide their logits by the penalty if positive, else multiply."""
    scores = logits.gather(1, tokens)  # (B, S)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(1, tokens, scores)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens of each row. (B, V) -> (B, V)."""
    threshold = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < threshold, DROPPED)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of tokens whose probabilities sum to at least p (arXiv 1904.09751). (B, V) -> (B, V)."""
    probabilities = logits.softmax(-1)
    vocab_size = logits.shape[-1]
    # sorting the vocabulary costs more than a small model's forward pass, and a few tokens usually reach p
    for k in (256, 4096, vocab_size):
        best = probabilities.topk(min(k, vocab_size)).values  # (B, k), sorted
        sums = best.cumsum(-1)
        if bool((sums[:, -1] >= p).all()):
            break
    last = (sums < p).sum(-1, keepdim=True).clamp(max=best.shape[-1] - 1)  # the token that reaches p
    return logits.masked_fill(probabilities < best.gather(-1, last), DROPPED)


def min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens at least `share` times as probable as the most probable one (arXiv 2407.01082). (B, V) -> (B, V)."""
    if share == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(share), DROPPED)


def apply_filters(logits: Tensor, settings: GenerationSettings) -> Tensor:
    """Temperature (above 0), then top_k, top_p and min_p. (B, V) -> (B, V)."""
    logits = logits / settings.temperature
    if settings.top_k is not None:
        logits = top_k(logits, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits = top_p(logits, settings.top_p)
    if settings.min_p is not None:
        logits = min_p(logits, settings.min_p)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token per row, (B,), from softmax(logits) (B, V) and one uniform number in [0, 1) per row, (B,).

    Inverse transform sampling: the token in whose interval of the cumulative distribution the number falls. Tokens stay
    in the order of their ids, so that rounding in the logits moves the intervals as little and almost never changes the
    token: a row samples the same alone and in a batch. (If sorted, near equals could swap.)
    """
    sums = logits.softmax(-1).cumsum_(-1)
    found = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)  # (B, 1)
    found = found.clamp(max=logits.shape[-1] - 1)
    # parallel cumsum can increase by rounding where 0 is added, but a filtered token must never be sampled
    dropped = logits.gather(1, found) == DROPPED
    if bool(dropped.any()):
        found = torch.where(dropped, logits.argmax(-1, keepdim=True), found)
    return found[:, 0]


def choose(logits: Tensor, tokens: Tensor, settings: GenerationSettings, uniform: Tensor) -> Tensor:
    """Next token of each row, (B,): logits (B, V), tokens so far (B, S), uniform numbers in [0, 1) (B,)."""
    if settings.repetition_penalty != 1:
        logits = penalize_repetition(logits, tokens, settings.repetition_penalty)
    if settings.temperature == 0:
        return logits.argmax(-1)
    return draw(apply_filters(logits, settings), uniform)


def uniforms(seed: int, samples: int, steps: int) -> Tensor:
    """Uniform numbers in [0, 1), (samples, steps); row i depends on seed + i alone."""
    generators = [seeded(seed + i) for i in range(samples)]
    return torch.stack([torch.rand(steps, generator=generator) for generator in generators])
