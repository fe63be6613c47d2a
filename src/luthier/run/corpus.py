"""The text of a run: its tokenizer, its token shards and its batches."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from luthier.data.batches import BatchSource, PaddedDocuments, RandomWindows, SlidingWindows
from luthier.data.prepare import prepare
from luthier.data.shards import INDEX, TokenShards, open_tokens, read_index
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.errors import UsageError
from luthier.run.plan import Plan
from luthier.tokenizers.load import load as load_tokenizer
from luthier.tokenizers.tokenizer import Tokenizer
from luthier.tokenizers.train import characters, train_bpe


def prepared_folder(plan: Plan) -> Path | None:
    """The folder that `luthier data prepare` made, when that is what the run is given."""
    folder = Path(plan.data[0])
    return folder if len(plan.data) == 1 and (folder / INDEX).is_file() else None


def prepare_tokens(plan: Plan, out: Path) -> tuple[Tokenizer, Path]:
    """Make or read the tokenizer, and encode the text into `out` unless it is encoded already."""
    prepared = prepared_folder(plan)
    if prepared is not None:
        return load_tokenizer(prepared), prepared
    settings = plan.settings
    texts = Texts(plan.data, field=settings.field, normalisation=settings.normalisation, invalid=settings.invalid)
    tokenizer = make_tokenizer(plan, texts)
    fractions = Fractions(settings.validation, settings.test, settings.split_by)
    prepare(texts, tokenizer, out, fractions=fractions, settings={"data": list(plan.data), **asdict(fractions)})
    return tokenizer, out


def make_tokenizer(plan: Plan, texts: Texts) -> Tokenizer:
    """The tokenizer that the settings name."""
    if plan.settings.tokenizer == "characters":
        return characters(texts.documents())
    if plan.settings.tokenizer == "bpe":
        return train_bpe(texts.documents(), plan.model.vocab_size)
    return load_tokenizer(plan.settings.tokenizer)


def open_splits(folder: Path) -> tuple[TokenShards, TokenShards | None]:
    """The training tokens, and the validation tokens if any were held out."""
    validation = open_tokens(folder, "validation") if "validation" in read_index(folder).splits else None
    return open_tokens(folder, "train"), validation


def make_batches(plan: Plan, tokens: TokenShards, tokenizer: Tokenizer) -> BatchSource:
    """The batches that the settings name."""
    settings, context = plan.settings, plan.model.context_length
    if settings.batches == "sliding":
        stride = settings.stride or context
        return SlidingWindows(tokens, context, settings.batch_size, stride=stride, seed=settings.seed)
    if settings.batches == "documents":
        pad = tokenizer.pad_id if tokenizer.pad_id is not None else 0
        return PaddedDocuments(tokens, context, settings.batch_size, seed=settings.seed, pad_id=pad)
    if settings.stride:
        raise UsageError("stride is for sliding windows: add --batches sliding, or leave stride out")
    return RandomWindows(tokens, context, settings.batch_size, seed=settings.seed)


def bits_per_byte(loss: float, tokens: TokenShards) -> float:
    """A loss in nats a token as bits for each byte of the text: what different tokenizers can be compared by."""
    return loss / 0.6931471805599453 * len(tokens) / max(1, tokens.bytes)
