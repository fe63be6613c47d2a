"""Score a text: loss, perplexity, bits per byte.

The loss is the mean of -log p(token | tokens before it), in nats. Perplexity is exp(loss): the number of equally likely
tokens with the same uncertainty. Bits per byte divide the summed loss by the bytes of the text, so that models with
different tokenizers can be compared.

Shapes: B windows of a batch, T tokens, N scored tokens, n of them at once, C dim, V vocab_size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.errors import LuthierError, UsageError, setting
from luthier.evaluation.windows import TokenSpan, Window, limited, windows
from luthier.model.loss import LOGITS_PER_CHUNK
from luthier.model.overrides import must_be_called
from luthier.model.transformer import Transformer


@dataclass(frozen=True)
class TextScore:
    """A model's loss on a text.

    loss: nats per token. standard_error: of the loss (see `BlockedLoss`); None for a text of one block. tokens: number
    scored. bytes: of the scored text, in UTF-8. seconds: duration.
    """

    loss: float
    standard_error: float | None
    tokens: int
    bytes: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Summed loss divided by the bytes of the text, in bits."""
        return self.loss * self.tokens / math.log(2) / max(1, self.bytes)

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens per second."""
        return self.tokens / self.seconds


class BlockedLoss:
    """Summed loss over blocks of tokens, with a standard error.

    Losses of nearby tokens are correlated, so that a standard error over single tokens is too small. The unit here is a
    block of `size` consecutive scored tokens, and the loss a ratio of two sums over blocks (Cochran, Sampling
    Techniques, 1977, section 6.3), as the last block may be shorter.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sums: list[tuple[float, int]] = []  # (nats, tokens) per block

    def add(self, losses: Tensor) -> None:
        """Add the losses of consecutive tokens, (n,)."""
        losses = losses.cpu().double()  # cpu first: mps has no float64
        while len(losses):
            nats, tokens = self.sums.pop() if self.sums and self.sums[-1][1] < self.size else (0.0, 0)
            part, losses = losses.tensor_split([self.size - tokens])
            self.sums.append((nats + part.sum().item(), tokens + len(part)))

    @property
    def tokens(self) -> int:
        """Number of tokens so far."""
        return sum(tokens for _, tokens in self.sums)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return math.fsum(nats for nats, _ in self.sums) / self.tokens

    @property
    def standard_error(self) -> float | None:
        """Standard error of the loss; None for a single block."""
        count = len(self.sums)
        if count < 2:
            return None
        squares = math.fsum((nats - self.loss * tokens) ** 2 for nats, tokens in self.sums)
        return math.sqrt(squares * count / (count - 1)) / self.tokens


@torch.inference_mode()
def score(
    model: Transformer,
    spans: Iterable[TokenSpan],
    *,
    context_length: int,
    stride: int,
    batch_size: int = 8,
    max_tokens: int | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> TextScore:
    """Score a text (see `windows.token_span`). Logits are held for a few thousand tokens at once, whatever the sizes.

    stride: 1 gives each token the full context at the cost of one window per token; context_length splits the text into
    disjoint blocks. max_tokens: maximum number of tokens to score. progress: called with the number of newly scored
    tokens.

    Raises a UsageError for sizes out of range, and a LuthierError for a text with nothing to score and for a NaN or
    infinite loss.
    """
    for name, value in {"context": context_length, "stride": stride, "batch_size": batch_size}.items():
        if value < 1:
            raise UsageError(f"{setting(name)} is {value}: it must be at least 1")
    if stride > context_length:
        raise UsageError(
            f"{setting('stride')} is {stride}: with a context of {context_length}, tokens would be left out"
        )
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"{setting('max_tokens')} is {max_tokens}: it must be at least 1")
    wanted = windows(spans if max_tokens is None else limited(spans, max_tokens), context_length, stride)
    blocks, n_bytes = BlockedLoss(context_length), 0
    start = time.perf_counter()
    training = model.training
    model.eval()
    try:
        while batch := list(islice(wanted, batch_size)):
            for losses in token_losses(model, batch):
                blocks.add(losses)
            n_bytes += sum(window.n_bytes for window in batch)
            progress(sum(window.scored for window in batch))
    finally:
        model.train(training)
    if not blocks.tokens:
        raise LuthierError("the text has no token that follows another: there is nothing to score")
    if not math.isfinite(blocks.loss):
        raise LuthierError(
            f"the model's loss on this text is {blocks.loss}: its weights are damaged, or overflow in this dtype "
            "(float32 is the safest)"
        )
    return TextScore(blocks.loss, blocks.standard_error, blocks.tokens, n_bytes, time.perf_counter() - start)


def token_losses(model: Transformer, batch: list[Window]) -> Iterator[Tensor]:
    """-log p of the windows' scored tokens, in order and in chunks, (n,) float32."""
    device = model.device
    width = max(len(window.ids) for window in batch) - 1
    # shorter windows are padded at the end, which causal attention hides from the tokens before it
    rows = [[*window.ids[:-1], *[0] * (width + 1 - len(window.ids))] for window in batch]
    ids = torch.tensor(rows, device=device)
    whole = must_be_called(model, Transformer)
    states = model(ids) if whole else model.hidden(ids)  # (B, T, V) or (B, T, C)
    ends = [len(window.ids) - 1 for window in batch]
    wanted = [row[end - window.scored : end] for row, end, window in zip(states, ends, batch, strict=True)]
    targets = [token for window in batch for token in window.ids[-window.scored :]]
    size = max(1, LOGITS_PER_CHUNK // model.embedding.num_embeddings)
    target_ids = torch.tensor(targets, device=device)  # (N,)
    for state, target in zip(torch.split(torch.cat(wanted), size), torch.split(target_ids, size), strict=True):
        logits = state if whole else model.output(state)  # (n, V)
        yield F.cross_entropy(logits.float(), target, reduction="none")
