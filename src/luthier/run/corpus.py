"""The text of a run: its files, its tokenizer and its token shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from luthier.data.prepare import prepare
from luthier.data.shards import INDEX, check_files, read_index
from luthier.data.source_files import SourceFile, source_files
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.errors import LuthierError
from luthier.model_files.tokenizer import open_tokenizer
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.load import load as load_tokenizer
from luthier.training.settings import Settings


def prepared_folder(data: Sequence[str]) -> Path | None:
    """The folder that `luthier data prepare` made, if that is the data."""
    folder = Path(data[0])
    return folder if len(data) == 1 and (folder / INDEX).is_file() else None


def prepare_tokens(
    data: tuple[str, ...], settings: Settings, vocab_size: int, out: Path, given: Tokenizer | None = None
) -> tuple[Tokenizer, Path]:
    """Make or read the tokenizer, and encode the data into `out` unless it is encoded already.

    vocab_size: of a tokenizer that is trained here. given: the tokenizer of the model that the run goes on with.
    Returns the tokenizer and the folder of token shards.
    """
    prepared = prepared_folder(data)
    if prepared is not None:
        tokenizer = load_tokenizer(prepared)
        if tokenizer.fingerprint != read_index(prepared).fingerprint:
            raise LuthierError(f"{prepared}: its tokenizer is not the one that made its tokens; prepare the text again")
        check_files(prepared)
        return tokenizer, prepared
    texts, validation = texts_of(data, settings)
    made = make_tokenizer(settings.tokenizer, vocab_size, texts, validation) if given is None else given
    tokenizer = made.with_cleaning(settings.normalization)
    encode(texts, validation, tokenizer, settings, out, source_files(texts, validation))
    return tokenizer, out


def texts_of(data: tuple[str, ...], settings: Settings) -> tuple[Texts, Texts | None]:
    """The text, and the one for validation if that has files of its own."""
    own = (settings.validation,) if isinstance(settings.validation, str) else ()
    reading = how_to_read(settings)
    return Texts(data, **reading, without=own), Texts(own, **reading) if own else None


def how_to_read(settings: Settings) -> dict[str, Any]:
    """The settings that decide how files become documents."""
    names = ("field", "normalization", "invalid", "document_separator")
    return {name: getattr(settings, name) for name in names}


def encode(
    texts: Texts,
    validation: Texts | None,
    tokenizer: Tokenizer,
    settings: Settings,
    out: Path,
    sources: list[SourceFile],
) -> None:
    """Write the texts as tokens into `out`, with a record of the files that they were read from."""
    share = 0.0 if isinstance(settings.validation, str) else settings.validation
    fractions = Fractions(share, settings.test, settings.split_by)
    record = {"data": [str(item) for item in texts.data], "validation": settings.validation, **how_to_read(settings)}
    record["sources"] = [asdict(source) for source in sources]
    prepare(texts, tokenizer, out, fractions=fractions, validation=validation, settings=record)


def make_tokenizer(name: str, vocab_size: int, texts: Texts, validation: Texts | None = None) -> Tokenizer:
    """A tokenizer of characters, which include those of the validation text; a trained BPE; or one that is opened."""
    if name == "characters":
        return characters(chain(texts.documents(), () if validation is None else validation.documents()))
    if name == "bpe":
        return train_bpe(texts.documents(), vocab_size)
    return open_tokenizer(name)
