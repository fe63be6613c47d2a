"""Token shards of a run, training and validation text, and the batches that are cut from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luthier.data.batches import (
    Batch,
    BatchSource,
    PaddedDocuments,
    RandomWindows,
    SlidingWindows,
    evaluation_batches,
)
from luthier.data.shards import TokenShards, open_tokens, read_index
from luthier.errors import UsageError, setting
from luthier.training.distributed import ALONE, World
from luthier.training.settings import Settings

TRAINING_BATCHES = 8  # of an evaluation on training text, unless eval_batches is set


@dataclass(frozen=True)
class Split:
    """A text to evaluate on: its tokens, and the same batches of them each time."""

    tokens: TokenShards
    batches: Callable[[], Iterator[Batch]]

    def bits_per_byte(self, loss: float) -> float:
        """A loss in nats per token as bits per byte of the text, which compares different tokenizers."""
        return bits_per_byte(loss, self.tokens)


class TokenSplits:
    """Training and validation tokens of a folder, cut into batches, of which this process has its rows."""

    def __init__(self, folder: Path, pad_id: int, world: World = ALONE) -> None:
        self.train = open_tokens(folder, "train")
        has_validation = "validation" in read_index(folder).splits
        self.validation = open_tokens(folder, "validation") if has_validation else None
        self.origin = origin(folder)
        self.pad_id, self.world = pad_id, world

    @property
    def held_out(self) -> TokenShards:
        """Validation tokens, or training tokens if there are none."""
        return self.validation or self.train

    def training_batches(self, settings: Settings, context_length: int) -> BatchSource:
        """Training batches in the order that the settings name, from the first on."""
        share: Any = {"rank": self.world.rank, "world": self.world.size}
        size, seed = settings.batch_size, settings.seed
        if settings.batches == "sliding":
            stride = settings.stride or context_length
            return SlidingWindows(self.train, context_length, size, stride=stride, seed=seed, **share)
        if settings.stride:
            raise UsageError(
                f"{setting('stride')} is for sliding windows: add {setting('batches', 'sliding')}, or leave "
                f"{setting('stride')} out"
            )
        if settings.batches == "documents":
            return PaddedDocuments(self.train, context_length, size, seed=seed, pad_id=self.pad_id, **share)
        together = settings.gradient_accumulation_steps
        return RandomWindows(self.train, context_length, size, accumulation=together, seed=seed, **share)

    def evaluation_batches(
        self, tokens: TokenShards, settings: Settings, context_length: int, n_batches: int | None
    ) -> Iterator[Batch]:
        """The same batches at every evaluation, of the kind that is trained on; None: the whole split.

        n_batches: as large as a step, all `gradient_accumulation_steps` together, so that the rows are the same however
        a step is cut into batches.
        """
        share: Any = {"rank": self.world.rank, "world": self.world.size}
        size = settings.batch_size
        n_batches = None if n_batches is None else n_batches * settings.gradient_accumulation_steps
        if settings.batches != "documents":
            return evaluation_batches(tokens, context_length, size, n_batches, **share)
        drawn = n_batches is not None
        documents = PaddedDocuments(tokens, context_length, size, seed=0, pad_id=self.pad_id, shuffle=drawn, **share)
        there = documents.batches_per_epoch
        return (documents.next_batch() for _ in range(min(n_batches or there, there)))

    def splits(self, settings: Settings, context_length: int) -> dict[str, Split]:
        """Texts to evaluate on, "train" and "validation", by eval_batches; 0 takes the whole validation text."""

        def split(tokens: TokenShards, n_batches: int | None) -> Split:
            return Split(tokens, partial(self.evaluation_batches, tokens, settings, context_length, n_batches))

        found = {"train": split(self.train, settings.eval_batches or TRAINING_BATCHES)}
        if self.validation is not None:
            found["validation"] = split(self.validation, settings.eval_batches or None)
        return found


def origin(folder: Path) -> dict[str, Any]:
    """What identifies the tokens of a folder: their numbers, and the first digits of their checksums."""
    index = read_index(folder)
    found: dict[str, Any] = {"tokenizer": index.fingerprint[:16], "vocab_size": index.vocab_size}
    for name, split in index.splits.items():
        found[f"{name} tokens"] = split["tokens"]
        joined = "".join(shard["sha256"] for shard in split["shards"])
        found[f"{name} sha256"] = hashlib.sha256(joined.encode()).hexdigest()[:16]
    return found


def steps_in_all(settings: Settings, batches: BatchSource) -> int:
    """Length of a run: steps as set, or as many as the epochs take."""
    per_epoch = batches.batches_per_epoch / settings.gradient_accumulation_steps
    return settings.steps or math.ceil((settings.epochs or 1) * per_epoch - 1e-6)


def bits_per_byte(loss: float, tokens: TokenShards) -> float:
    """A loss in nats per token as bits per byte of the text."""
    return loss / math.log(2) * len(tokens) / max(1, tokens.bytes)
