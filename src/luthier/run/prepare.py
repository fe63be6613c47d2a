"""`luthier.prepare`: text as token shards in a folder, which runs then share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from luthier.data.decoding import Invalid
from luthier.data.prepare import prepare as write_shards
from luthier.data.shards import Index
from luthier.data.sources import Texts
from luthier.data.splits import Fractions
from luthier.errors import remark, setting
from luthier.model_files.tokenizer import open_tokenizer
from luthier.run.request import Data, names_of
from luthier.tokenizers.core.cleaning import Normalization
from luthier.tokenizers.core.tokenizer import Tokenizer


def prepare(
    data: Data,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    validation: float | str | os.PathLike[str] = Fractions.validation,
    test: float = Fractions.test,
    split_by: Literal["auto", "characters", "documents"] = Fractions.split_by,
    seed: int = Fractions.seed,
    field: str = "text",
    normalization: Normalization = "NFC",
    invalid: Invalid = "error",
    document_separator: str = "",
) -> Index:
    """Encode text as token shards, ready to train on, as `luthier data prepare` does.

        >>> index = luthier.prepare("book.txt", "runs/book", "tokens")
        >>> index.splits["train"]["tokens"]
        1...
        >>> run = luthier.train("tokens", out="runs/new", steps=2, batch_size=2, model={"context_length": 16})

    data: a file, folder, glob or corpus, or a list of them. tokenizer: an open one, or what `luthier.tokenizer` opens.
    validation: fraction held out, or a text of its own. test: fraction held out for a test. split_by and seed say which
    part. The others say how files are read. Raises a LuthierError where there is no text, a split would be empty, or
    `out` holds something; then nothing is left behind.
    """
    how: dict[str, Any] = {
        "field": field, "normalization": normalization, "invalid": invalid, "document_separator": document_separator
    }  # fmt: skip
    own = () if isinstance(validation, (int, float)) else (os.fspath(validation),)
    share = float(validation) if isinstance(validation, (int, float)) else 0.0
    texts, separate = Texts(names_of(data), **how, without=own), Texts(own, **how) if own else None
    settings = {"data": list(names_of(data)), "validation": own[0] if own else validation, **how}
    opened = tokenizer if isinstance(tokenizer, Tokenizer) else open_tokenizer(os.fspath(tokenizer))
    cleaned, fractions = opened.with_cleaning(normalization), Fractions(share, test, split_by, seed)
    index = write_shards(texts, cleaned, Path(out), fractions=fractions, validation=separate, settings=settings)
    if seed != Fractions.seed and index.settings["split_by"] == "characters":
        remark(f"{setting('seed', seed)} has no effect: the text is split by characters, and the seed draws documents")
    if split_by != "auto" and not share and not test:
        remark(f"{setting('split_by', split_by)} has no effect: no share of the text is held out")
    return index
