"""The text of a run: its tokenizer, its token shards and its batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
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
from luthier.data.prepare import prepare
from luthier.data.shards import INDEX, TokenShards, check_files, open_tokens, read_index
from luthier.data.source_files import SourceFile, source_files
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.errors import LuthierError, UsageError, setting
from luthier.model_files.tokenizer import open_tokenizer
from luthier.run.plan import Plan
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.load import load as load_tokenizer
from luthier.training.distributed import ALONE, World
from luthier.training.settings import Settings


def prepared_folder(plan: Plan) -> Path | None:
    """The folder that `luthier data prepare` made, when that is what the run is given."""
    folder = Path(plan.data[0])
    return folder if len(plan.data) == 1 and (folder / INDEX).is_file() else None


def prepare_tokens(plan: Plan, out: Path, given: Tokenizer | None = None) -> tuple[Tokenizer, Path]:
    """Make or read the tokenizer, and encode the text into `out` unless it is encoded already.

    given: the tokenizer, where it is that of a model that the run goes on with.
    """
    prepared = prepared_folder(plan)
    if prepared is not None:
        tokenizer = load_tokenizer(prepared)
        if tokenizer.fingerprint != read_index(prepared).fingerprint:
            raise LuthierError(f"{prepared}: its tokenizer is not the one that made its tokens; prepare the text again")
        check_files(prepared)
        return tokenizer, prepared
    texts, validation = texts_of(plan)
    made = make_tokenizer(plan, texts, validation) if given is None else given
    tokenizer = made.with_cleaning(plan.settings.normalisation)
    encode(plan, texts, validation, tokenizer, out, source_files(texts, validation))
    return tokenizer, out


def texts_of(plan: Plan) -> tuple[Texts, Texts | None]:
    """The text, and the one to validate on when it has files of its own."""
    own = (plan.settings.validation,) if isinstance(plan.settings.validation, str) else ()
    reading = how_to_read(plan.settings)
    return Texts(plan.data, **reading, without=own), Texts(own, **reading) if own else None


def how_to_read(settings: Settings) -> dict[str, Any]:
    """The settings that decide how files become documents."""
    names = ("field", "normalisation", "invalid", "document_separator")
    return {name: getattr(settings, name) for name in names}


def encode(
    plan: Plan, texts: Texts, validation: Texts | None, tokenizer: Tokenizer, out: Path, sources: list[SourceFile]
) -> None:
    """Write the texts as tokens into `out`, with what they were read from."""
    settings = plan.settings
    share = 0.0 if isinstance(settings.validation, str) else settings.validation
    fractions = Fractions(share, settings.test, settings.split_by)
    record = {"data": list(plan.data), "validation": settings.validation, **how_to_read(settings)}
    record["sources"] = [asdict(source) for source in sources]
    prepare(texts, tokenizer, out, fractions=fractions, validation=validation, settings=record)


def make_tokenizer(plan: Plan, texts: Texts, validation: Texts | None = None) -> Tokenizer:
    """The tokenizer that the settings name. A vocabulary of characters has those of the validation text too."""
    if plan.settings.tokenizer == "characters":
        return characters(chain(texts.documents(), () if validation is None else validation.documents()))
    if plan.settings.tokenizer == "bpe":
        return train_bpe(texts.documents(), plan.model.vocab_size)
    return open_tokenizer(plan.settings.tokenizer)


def origin(folder: Path) -> dict[str, Any]:
    """What tells the tokens of a run from others: their numbers, and the first digits of their sums."""
    index = read_index(folder)
    found: dict[str, Any] = {"tokenizer": index.fingerprint[:16], "vocab_size": index.vocab_size}
    for name, split in index.splits.items():
        found[f"{name} tokens"] = split["tokens"]
        found[f"{name} sha256"] = hashlib.sha256("".join(s["sha256"] for s in split["shards"]).encode()).hexdigest()[
            :16
        ]
    return found


def open_splits(folder: Path) -> tuple[TokenShards, TokenShards | None]:
    """The training tokens, and the validation tokens if any were held out."""
    validation = open_tokens(folder, "validation") if "validation" in read_index(folder).splits else None
    return open_tokens(folder, "train"), validation


def make_batches(plan: Plan, tokens: TokenShards, tokenizer: Tokenizer, world: World = ALONE) -> BatchSource:
    """The batches that the settings name, and of them the rows of this process."""
    settings, context = plan.settings, plan.model.context_length
    share: Any = {"rank": world.rank, "world": world.size}
    if settings.batches == "sliding":
        stride = settings.stride or context
        return SlidingWindows(tokens, context, settings.batch_size, stride=stride, seed=settings.seed, **share)
    if settings.stride:
        raise UsageError(
            f"{setting('stride')} is for sliding windows: add {setting('batches', 'sliding')}, or leave "
            f"{setting('stride')} out"
        )
    if settings.batches == "documents":
        pad = tokenizer.pad_id or 0
        return PaddedDocuments(tokens, context, settings.batch_size, seed=settings.seed, pad_id=pad, **share)
    together = settings.accumulation
    return RandomWindows(tokens, context, settings.batch_size, accumulation=together, seed=settings.seed, **share)


def steps_in_all(settings: Settings, batches: BatchSource) -> int:
    """The length of the run: steps as given, or as many as the epochs take."""
    per_epoch = batches.batches_per_epoch / settings.accumulation
    return settings.steps or math.ceil((settings.epochs or 1) * per_epoch - 1e-6)


def batches_to_look_at(
    plan: Plan, tokens: TokenShards, tokenizer: Tokenizer, n_batches: int | None, world: World = ALONE
) -> Iterator[Batch]:
    """The same batches at every evaluation, of the kind that is trained on; None: the whole split.

    n_batches: as large as those of a step, all `accumulation` together, so that the rows are the same however a step is
    cut into batches.
    """
    share: Any = {"rank": world.rank, "world": world.size}
    size, context = plan.settings.batch_size, plan.model.context_length
    n_batches = None if n_batches is None else n_batches * plan.settings.accumulation
    if plan.settings.batches != "documents":
        return evaluation_batches(tokens, context, size, n_batches, **share)
    drawn = n_batches is not None
    documents = PaddedDocuments(tokens, context, size, seed=0, pad_id=tokenizer.pad_id or 0, shuffle=drawn, **share)
    there = documents.batches_per_epoch
    return (documents.next_batch() for _ in range(min(n_batches or there, there)))


def bits_per_byte(loss: float, tokens: TokenShards) -> float:
    """A loss in nats a token as bits for each byte of the text: what different tokenizers can be compared by."""
    return loss / math.log(2) * len(tokens) / max(1, tokens.bytes)
