"""Where two models diverge: layer by layer, and token by token.

Shapes: T tokens, L layers, C dim, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.inspect.lens import score_tokens
from luthier.inspect.recording import Recording, record
from luthier.model.transformer import Transformer


@dataclass(frozen=True)
class Difference:
    """Difference of one activation between two models.

    relative: |a - b| / |a| of a token's vectors, the maximum over tokens, 0 to infinity; token: where the maximum is;
    largest: maximum absolute difference of one element.
    """

    name: str
    relative: float
    token: int
    largest: float


@dataclass(frozen=True)
class TokenPrediction:
    """A token, its position (from 1) and the probability that each model gives it."""

    place: int
    token: int
    probability: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    differences: in the order of computation, empty where the models' shapes differ. divergence: mean over positions of
    KL(a || b) of the next-token distributions, in bits.
    """

    differences: list[Difference]
    tokens: list[TokenPrediction]
    divergence: float

    def first(self, tolerance: float) -> Difference | None:
        """First activation whose relative difference exceeds the tolerance. NaN counts as different."""
        return next((found for found in self.differences if not found.relative <= tolerance), None)


def compare(a: Transformer, b: Transformer, tokens: Sequence[int]) -> Comparison:
    """Run two models on the same tokens and compare their activations and predictions.

    Raises a LuthierError where their vocabularies have different sizes.
    """
    sizes = [model.output.out_features for model in (a, b)]
    if sizes[0] != sizes[1]:
        raise LuthierError(
            f"the models have {sizes[0]} and {sizes[1]} tokens: only models with the same vocabulary can be compared"
        )
    ids = torch.tensor([list(tokens)])
    one, two = (record(model, ids.to(model.device)) for model in (a, b))
    named = zip(activations(one), activations(two), strict=True) if same_shape(one, two) else ()
    differences = [difference(name, x, y) for (name, x), (_, y) in named]
    probabilities = [score_tokens(each.logits, each.tokens).probability[0].tolist() for each in (one, two)]
    predictions = [
        TokenPrediction(place, tokens[place], pair) for place, pair in enumerate(zip(*probabilities, strict=True), 1)
    ]
    return Comparison(differences, predictions, divergence(one.logits[0], two.logits[0]))


def same_shape(one: Recording, two: Recording) -> bool:
    """Whether the models have the same number of layers and the same width."""
    return len(one.layers) == len(two.layers) and one.embedding.shape == two.embedding.shape


def activations(recording: Recording) -> list[tuple[str, Tensor]]:
    """Named activations in the order of computation, (T, C or V) each."""
    named = [("embedding", recording.embedding[0])]
    for number, layer in enumerate(recording.layers):
        named.append((f"layer {number} attention", layer.after_attention[0]))
        named.append((f"layer {number} feed-forward", layer.after_feed_forward[0]))
    return [*named, ("final norm", recording.normed[0]), ("logits", recording.logits[0])]


def difference(name: str, a: Tensor, b: Tensor) -> Difference:
    """Difference of two activations (T, C)."""
    wide, gap = a.cpu().double(), a.cpu().double() - b.cpu().double()
    lengths = gap.norm(dim=-1) / wide.norm(dim=-1)
    relative = torch.where(gap.norm(dim=-1) == 0, 0.0, lengths)  # 0 / 0 where both are 0
    token = int(relative.argmax())  # argmax treats NaN as the maximum
    return Difference(name, float(relative[token]), token, float(gap.abs().max()))


def divergence(a: Tensor, b: Tensor) -> float:
    """Mean of KL(a || b) of (T, V) logits, in bits (Kullback and Leibler, 1951)."""
    log_a, log_b = (logits.cpu().double().log_softmax(-1) for logits in (a, b))
    return float((log_a.exp() * (log_a - log_b)).sum(-1).mean() / torch.tensor(2.0).log())
