"""Statistics of a recording: per token, per layer, per head.

Shapes: B batch, T tokens, L layers, H query heads, V vocab_size, k candidates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.inspect.recording import Recording
from luthier.model.transformer import Transformer

LOGITS_PER_CHUNK = 32 * 2**20  # elements: 128 MB in float32


class TokenScores(NamedTuple):
    """Predictions of the tokens from the second on, (B, T - 1) each.

    probability, 0 to 1; rank, 1 = most probable; surprise (surprisal) = -log2(probability), in bits.
    """

    probability: Tensor
    rank: Tensor
    surprise: Tensor


class Candidates(NamedTuple):
    """Most probable next tokens, best first: ids and probabilities, (..., k)."""

    ids: Tensor
    probabilities: Tensor


class LogitLens(NamedTuple):
    """Predictions decoded from the residual stream after each layer.

    candidates (L + 1, B, T, k): after the embedding, then after each layer; scores: as TokenScores, (L + 1, B, T - 1).
    """

    candidates: Candidates
    scores: TokenScores


class Norms(NamedTuple):
    """Euclidean norms, float32: of the residual stream (L + 1, B, T), first at the input of the first block; and of
    what attention and feed-forward add to it, (L, B, T).
    """

    residual: Tensor
    attention: Tensor
    feed_forward: Tensor


@torch.no_grad()
def score_tokens(logits: Tensor, tokens: Tensor) -> TokenScores:
    """Score (B, T, V) logits against the (B, T) ids that they were computed from."""
    predicted = logits[:, :-1].float()
    actual = predicted.gather(-1, tokens[:, 1:, None])  # (B, T - 1, 1)
    nats = predicted.logsumexp(-1) - actual[..., 0]
    return TokenScores((-nats).exp(), (predicted > actual).sum(-1) + 1, nats / math.log(2))


@torch.no_grad()
def top_candidates(logits: Tensor, k: int) -> Candidates:
    """Top k next tokens of (..., V) logits, or all where there are fewer."""
    logits = logits.float()
    best = logits.topk(min(k, logits.shape[-1]))
    return Candidates(best.indices, (best.values - logits.logsumexp(-1, keepdim=True)).exp())


@torch.no_grad()
def logit_lens(model: Transformer, recording: Recording, k: int) -> LogitLens:
    """Apply the final norm and the output matrix to the residual stream after each layer.

    The last layer gives the model's own output. (nostalgebraist, "interpreting GPT: the logit lens", 2020.)
    """
    rows = max(2, LOGITS_PER_CHUNK // model.embedding.num_embeddings // recording.tokens.shape[0])
    layers = [lens_of(model, stream, recording.tokens, k, rows) for stream in recording.residual]
    candidates, scores = zip(*layers, strict=True)
    return LogitLens(
        Candidates(*map(torch.stack, zip(*candidates, strict=True))),
        TokenScores(*map(torch.stack, zip(*scores, strict=True))),
    )


def lens_of(model: Transformer, stream: Tensor, tokens: Tensor, k: int, rows: int) -> tuple[Candidates, TokenScores]:
    """Logit lens of one layer, computed on `rows` positions at a time to bound memory."""
    candidates, scores = [], []
    for start in range(0, tokens.shape[1], rows - 1):
        logits = model.output(model.norm(stream[:, start : start + rows]))  # (B, rows, V); chunks overlap by one row
        candidates.append(top_candidates(logits[:, : rows - 1], k))
        scores.append(score_tokens(logits, tokens[:, start : start + rows]))
    return (
        Candidates(*(torch.cat(parts, 1) for parts in zip(*candidates, strict=True))),
        TokenScores(*(torch.cat(parts, 1) for parts in zip(*scores, strict=True))),
    )


def norms(recording: Recording) -> Norms:
    """Norms of the residual stream and of what each layer adds to it."""

    def lengths(vectors: list[Tensor]) -> Tensor:
        return torch.stack([vector.float().norm(dim=-1) for vector in vectors])

    return Norms(
        lengths(recording.residual),
        lengths([layer.attention_added for layer in recording.layers]),
        lengths([layer.feed_forward_added for layer in recording.layers]),
    )


def first_token_share(recording: Recording) -> Tensor:
    """Share of each head's attention on the first token, (L, B, H), averaged over the later queries.

    A head with more than half of its attention there is an attention sink (arXiv 2309.17453). For left-padded rows it
    is the share of the padding. NaN for a single token.
    """
    return torch.stack([layer.attention_weights[:, :, 1:, 0].mean(-1) for layer in recording.layers])
