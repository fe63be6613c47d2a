"""What a recording says: of each token, of each layer, of each head.

Shapes: B batch, T tokens, L layers, H query heads, V vocab_size, k candidates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.inspect.recording import Recording
from luthier.model.transformer import Transformer

LOGITS_AT_ONCE = 32 * 2**20  # elements: 128 MB in float32


class TokenScores(NamedTuple):
    """How well tokens were foretold, each (B, T - 1), of the tokens from the second on.

    probability, 0 to 1; rank, 1 = the likeliest; surprise = -log2(probability), in bits.
    """

    probability: Tensor
    rank: Tensor
    surprise: Tensor


class Candidates(NamedTuple):
    """The likeliest next tokens, best first: ids and probabilities, (..., k)."""

    ids: Tensor
    probabilities: Tensor


class LogitLens(NamedTuple):
    """What each layer would say if it were the last.

    candidates (L + 1, B, T, k): after the embedding, then after each layer; scores: as TokenScores, (L + 1, B, T - 1).
    """

    candidates: Candidates
    scores: TokenScores


class Norms(NamedTuple):
    """Euclidean lengths, float32: of the residual stream (L + 1, B, T), first what enters the first block; and of
    what attention and feed-forward add to it, (L, B, T).
    """

    residual: Tensor
    attention: Tensor
    feed_forward: Tensor


@torch.no_grad()
def score_tokens(logits: Tensor, tokens: Tensor) -> TokenScores:
    """(B, T, V) logits and the (B, T) ids that they were computed from."""
    ahead = logits[:, :-1].float()
    own = ahead.gather(-1, tokens[:, 1:, None])  # (B, T - 1, 1)
    nats = ahead.logsumexp(-1) - own[..., 0]
    return TokenScores((-nats).exp(), (ahead > own).sum(-1) + 1, nats / math.log(2))


@torch.no_grad()
def top_candidates(logits: Tensor, k: int) -> Candidates:
    """(..., V) logits -> the k likeliest tokens, or all where there are fewer."""
    logits = logits.float()
    best = logits.topk(min(k, logits.shape[-1]))
    return Candidates(best.indices, (best.values - logits.logsumexp(-1, keepdim=True)).exp())


@torch.no_grad()
def logit_lens(model: Transformer, recording: Recording, k: int) -> LogitLens:
    """Final norm and output matrix on the residual stream after each layer.

    The last is what the model itself says. (The lens is nostalgebraist's, "interpreting GPT: the logit lens", 2020.)
    """
    rows = max(2, LOGITS_AT_ONCE // model.embedding.num_embeddings // recording.tokens.shape[0])
    layers = [lens_of(model, stream, recording.tokens, k, rows) for stream in recording.residual]
    candidates, scores = zip(*layers, strict=True)
    return LogitLens(
        Candidates(*map(torch.stack, zip(*candidates, strict=True))),
        TokenScores(*map(torch.stack, zip(*scores, strict=True))),
    )


def lens_of(model: Transformer, stream: Tensor, tokens: Tensor, k: int, rows: int) -> tuple[Candidates, TokenScores]:
    """One layer's, so many rows of logits at once that they fit into memory."""
    candidates, scores = [], []
    for start in range(0, tokens.shape[1], rows - 1):
        logits = model.output(model.norm(stream[:, start : start + rows]))  # (B, rows, V); the last row comes again
        candidates.append(top_candidates(logits[:, : rows - 1], k))
        scores.append(score_tokens(logits, tokens[:, start : start + rows]))
    return (
        Candidates(*(torch.cat(parts, 1) for parts in zip(*candidates, strict=True))),
        TokenScores(*(torch.cat(parts, 1) for parts in zip(*scores, strict=True))),
    )


def norms(recording: Recording) -> Norms:
    """How long the vectors are that pass through the model."""

    def lengths(vectors: list[Tensor]) -> Tensor:
        return torch.stack([vector.float().norm(dim=-1) for vector in vectors])

    return Norms(
        lengths(recording.residual),
        lengths([layer.attention_added for layer in recording.layers]),
        lengths([layer.feed_forward_added for layer in recording.layers]),
    )


def first_token_share(recording: Recording) -> Tensor:
    """The share of each head's attention that goes to the first token, (L, B, H): the mean over the later tokens.

    A head with more than half of it there is an attention sink: it parks what it does not need (arXiv 2309.17453).
    Of rows that begin with padding, it is the share of the padding. With one token alone there is no share: NaN.
    """
    return torch.stack([layer.attention_weights[:, :, 1:, 0].mean(-1) for layer in recording.layers])
