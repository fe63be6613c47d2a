"""Batches of token ids for training, in an order that can be saved and restored.

Shapes: B rows of this rank, T = context_length tokens. Every batch of a source has the same shape, so that a compiled
model is compiled once: rows missing at the end of an epoch are padded with targets that are ignored by the loss.

Every draw uses a new generator seeded by (seed, index of the draw), never the global one. A state is thus a few
numbers, and resuming is exact at any batch. With `world` ranks, `batch_size` counts the rows of all ranks together, and
each rank gets its own share of the same batch: one process or eight see the same data in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.data.shards import TokenShards
from luthier.errors import LuthierError, UsageError, of_model, setting
from luthier.model.loss import IGNORE_INDEX

NO_LOSS = IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    """A training batch."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64: the id after each input, NO_LOSS where ignored by the loss
    valid: Tensor | None = None  # (B, T) bool, False = padding; None = no padding

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to another device."""
        valid = None if self.valid is None else self.valid.to(device, non_blocking=True)
        return Batch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), valid)


class BatchSource(Protocol):
    """An endless source of training batches."""

    @property
    def epoch(self) -> float:
        """Number of passes over the text so far."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Batches per pass over the text."""
        ...

    def next_batch(self) -> Batch:
        """Next batch of this rank."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON-serializable state from which `restore` continues with the very next batch."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a source over the same text with the same settings."""
        ...


class _Source:
    """Base of all sources: settings, the share of a rank, and a state that is the number of batches drawn."""

    def __init__(
        self, tokens: TokenShards, context_length: int, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        if context_length < 1 or batch_size < 1:
            raise UsageError(
                f"{of_model('context_length')} {context_length} and {setting('batch_size')} {batch_size} "
                "must be at least 1"
            )
        if batch_size % world:
            raise UsageError(
                f"{setting('batch_size')} {batch_size} cannot be shared evenly by {world} processes: take a multiple"
            )
        self.tokens, self.context_length, self.batch_size, self.seed = tokens, context_length, batch_size, seed
        self._share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self._given = 0  # batches

    @property
    def batches_per_epoch(self) -> int:
        raise NotImplementedError

    @property
    def epoch(self) -> float:
        return self._given / self.batches_per_epoch

    def state(self) -> dict[str, Any]:
        return {"batches": self._given, **self._settings()}

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise LuthierError(
                    f"cannot go on with these batches: {name} was {state.get(name)!r} and is {value!r} now; "
                    "resume with the settings and the text of the run"
                )
        self._given = int(state["batches"])

    def _settings(self) -> dict[str, Any]:
        return {
            "source": type(self).__name__,
            "tokens": len(self.tokens),
            "context_length": self.context_length,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def _mine(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows[self._share]


class RandomWindows(_Source):
    """Windows at random positions, drawn with replacement, as in nanoGPT. An epoch is as many tokens as the text has.

    All windows of a step, `accumulation` batches, are drawn at once: 8 batches of 1 row are the rows of 1 batch of 8. A
    state without that number, as in version 0.1, goes on drawing batch by batch.

    Raises UsageError when the text is shorter than one window.
    """

    def __init__(
        self,
        tokens: TokenShards,
        context_length: int,
        batch_size: int,
        *,
        accumulation: int = 1,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(tokens, context_length, batch_size, seed, rank, world)
        self.accumulation = accumulation
        _enough(tokens, context_length)

    @property
    def batches_per_epoch(self) -> int:
        rows = self.batch_size * self.accumulation
        return max(1, len(self.tokens) // (rows * self.context_length)) * self.accumulation

    def next_batch(self) -> Batch:
        step, within = divmod(self._given, self.accumulation)
        generator = np.random.default_rng([self.seed, step])
        rows = self.batch_size * self.accumulation
        starts = generator.integers(len(self.tokens) - self.context_length, size=rows)
        self._given += 1
        batch = starts[within * self.batch_size : (within + 1) * self.batch_size]
        return _windows(self.tokens, self._mine(batch), self.context_length)

    def restore(self, state: dict[str, Any]) -> None:
        if "accumulation" not in state:
            self.accumulation = 1
        super().restore(state)

    def _settings(self) -> dict[str, Any]:
        drawn_together = {"accumulation": self.accumulation} if self.accumulation > 1 else {}
        return {**super()._settings(), **drawn_together}


class SlidingWindows(_Source):
    """Windows every `stride` tokens, each once per epoch, as in the GPT-2 course and its book.

    `shuffle` permutes each epoch anew. `drop_last` drops the last batch when it is incomplete; otherwise it is padded
    with rows ignored by the loss. A tail shorter than a window is dropped, as in the course.

    Raises UsageError when the text is shorter than one window, or gives no full batch and `drop_last` is set.
    """

    def __init__(
        self,
        tokens: TokenShards,
        context_length: int,
        batch_size: int,
        *,
        stride: int | None = None,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(tokens, context_length, batch_size, seed, rank, world)
        self.stride = context_length if stride is None else stride
        if self.stride < 1:
            raise UsageError(f"{setting('stride')} {stride} must be at least 1")
        _enough(tokens, context_length)
        self._order = _Order(
            len(range(0, len(tokens) - context_length, self.stride)), batch_size, seed, shuffle, drop_last
        )
        if not self._order.batches:
            raise UsageError(
                f"the {tokens.name} split gives {self._order.items:,} windows of {context_length:,} tokens at stride "
                f"{self.stride:,}, not one batch of {batch_size:,}: lower {setting('batch_size')}, "
                f"{setting('stride')} or {of_model('context_length')}, "
                "or do not drop the last batch"
            )

    @property
    def batches_per_epoch(self) -> int:
        return self._order.batches

    def next_batch(self) -> Batch:
        windows = self._order.batch(self._given)
        self._given += 1
        return _windows(self.tokens, self._mine(windows) * self.stride, self.context_length)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "stride": self.stride, **self._order.settings()}


class PaddedDocuments(_Source):
    """One document per row, padded on the right. A document longer than the context takes several rows.

    The padding is `pad_id`, False in `valid`, and ignored by the loss; the end-of-text id that ends a document is not.

    Raises UsageError when no document has two ids, or there is no full batch and `drop_last` is set.
    """

    def __init__(
        self,
        tokens: TokenShards,
        context_length: int,
        batch_size: int,
        *,
        seed: int,
        pad_id: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(tokens, context_length, batch_size, seed, rank, world)
        self.pad_id = pad_id
        self._starts, self._lengths = _document_rows(tokens, context_length)
        if not len(self._starts):
            raise UsageError(f"the {tokens.name} split has no document of two tokens: there is nothing to predict")
        self._order = _Order(len(self._starts), batch_size, seed, shuffle, drop_last)
        if not self._order.batches:
            raise UsageError(
                f"the {tokens.name} split gives {self._order.items:,} rows, not one batch of {batch_size:,}: "
                f"lower {setting('batch_size')}, or do not drop the last batch"
            )

    @property
    def batches_per_epoch(self) -> int:
        return self._order.batches

    def next_batch(self) -> Batch:
        rows = self._mine(self._order.batch(self._given))
        self._given += 1
        lengths = np.where(rows >= 0, self._lengths[rows], 0)
        ids = np.full((len(rows), self.context_length + 1), self.pad_id, np.int64)
        for row, start, length in zip(ids, self._starts[rows].tolist(), lengths.tolist(), strict=True):
            row[: length + 1] = self.tokens[start : start + length + 1] if length else self.pad_id
        valid = np.arange(self.context_length) < lengths[:, None]
        targets = np.where(valid, ids[:, 1:], NO_LOSS)
        valid[:, 0] = True  # a row of padding only would leave its queries no key, and softmax would give NaN
        return Batch(_tensor(np.where(valid, ids[:, :-1], self.pad_id)), _tensor(targets), _tensor(valid))

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), **self._order.settings()}


class _Order:
    """The order of `items` over epochs, in batches; -1 pads an incomplete batch."""

    def __init__(self, items: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.batches = items // batch_size if drop_last else -(-items // batch_size)
        self._epoch, self._items = -1, np.arange(items)

    def batch(self, number: int) -> NDArray[np.int64]:
        """(batch_size,) item indices of a batch, numbered from the first batch of the first epoch."""
        epoch, within = divmod(number, self.batches)
        if self.shuffle and epoch != self._epoch:
            self._epoch, self._items = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.items)
        batch = self._items[within * self.batch_size : (within + 1) * self.batch_size]
        return np.pad(batch, (0, self.batch_size - len(batch)), constant_values=-1)

    def settings(self) -> dict[str, Any]:
        return {"items": self.items, "shuffle": self.shuffle, "drop_last": self.drop_last}


def evaluation_batches(
    tokens: TokenShards,
    context_length: int,
    batch_size: int,
    n_batches: int | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The same batches every time: disjoint windows, as many as `n_batches` hold, spread evenly over the split.

    With n_batches None (or large enough) every token but the first is predicted exactly once; the last window is padded
    with ignored targets. A split shorter than a window is one such window.

    Raises UsageError when the split has fewer than two tokens.
    """
    if len(tokens) < 2:
        raise UsageError(f"the {tokens.name} split has {len(tokens)} tokens: there is nothing to predict")
    windows = -(-(len(tokens) - 1) // context_length)
    taken = windows if n_batches is None else min(windows, n_batches * batch_size)
    order = _Order(taken, batch_size, seed=0, shuffle=False, drop_last=False)
    share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
    for number in range(order.batches):
        numbers = order.batch(number)[share]
        starts = np.where(numbers >= 0, numbers * windows // taken * context_length, -1)
        yield _windows(tokens, starts, context_length)


def _windows(tokens: TokenShards, starts: NDArray[np.int64], context_length: int) -> Batch:
    """Windows from the given starts; a start below 0 gives an ignored row, and targets past the end are ignored."""
    lengths = np.where(starts >= 0, np.minimum(len(tokens) - 1 - starts, context_length), 0)
    if lengths.min() == context_length:
        ids = tokens.rows(starts, context_length + 1)
        return Batch(_tensor(ids[:, :-1].astype(np.int64)), _tensor(ids[:, 1:].astype(np.int64)))
    ids = np.zeros((len(starts), context_length + 1), np.int64)
    for row, start, length in zip(ids, starts.tolist(), lengths.tolist(), strict=True):
        if length:
            row[: length + 1] = tokens[start : start + length + 1]
    with_loss = np.arange(context_length) < lengths[:, None]
    return Batch(_tensor(ids[:, :-1]), _tensor(np.where(with_loss, ids[:, 1:], NO_LOSS)))


def _document_rows(tokens: TokenShards, context_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and number of predictions of each row: the documents, split every context_length predictions."""
    starts = np.asarray(tokens.documents)
    predictions = np.diff(starts, append=len(tokens)) - 1
    rows = -(-predictions // context_length)
    first_row = np.repeat(np.cumsum(rows) - rows, rows)
    offsets = (np.arange(rows.sum()) - first_row) * context_length
    return np.repeat(starts, rows) + offsets, np.minimum(np.repeat(predictions, rows) - offsets, context_length)


def _enough(tokens: TokenShards, context_length: int) -> None:
    if len(tokens) <= context_length:
        raise UsageError(
            f"the {tokens.name} split has {len(tokens):,} tokens and one window needs {context_length + 1:,} "
            f"({of_model('context_length')} and the token after): lower {of_model('context_length')} to "
            f"{max(len(tokens) - 1, 1):,} or less, "
            "or give more text"
        )


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
