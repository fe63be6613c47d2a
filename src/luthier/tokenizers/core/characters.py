"""Fast encoding for character vocabularies: a text's ids are one table lookup."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from luthier.errors import LuthierError
from luthier.tokenizers.core.steps import without_cleaning

NONE = 2**32 - 1  # marks characters without an id


class CharacterTable:
    """Table of ids by code point. ids: the id of each character; not empty."""

    def __init__(self, ids: dict[str, int]) -> None:
        self._size = len(ids)
        self._table = np.full(max(map(ord, ids)) + 2, NONE, np.uint32)  # the last entry is for all larger code points
        self._table[[ord(character) for character in ids]] = list(ids.values())

    def ids(self, text: str, before: int = 0) -> NDArray[np.uint32]:
        """Encode a text. Raises LuthierError for a character without an id, UnicodeEncodeError for a lone surrogate.

        before: characters that stand before it, for the error.
        """
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids: NDArray[np.uint32] = self._table.take(codes, mode="clip")
        if len(ids) and ids.max() == NONE:
            place = int(ids.argmax())
            raise LuthierError(
                f"character {before + place} of the text, {text[place]!r} (U+{ord(text[place]):04X}), is not among the "
                f"{self._size} characters of this tokenizer: train it on a text that has it, or with byte_fallback "
                "(--byte-fallback), which takes any text"
            )
        return ids


def character_table(backend: Backend) -> CharacterTable | None:
    """The table of a character tokenizer; None for any other."""
    model = backend.model
    if not isinstance(model, BPE) or model.unk_token is not None or model.byte_fallback:
        return None
    if without_cleaning(backend.normalizer) or backend.pre_tokenizer is not None:
        return None
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    ids = {token: number for token, number in vocabulary.items() if len(token) == 1}
    return CharacterTable(ids) if ids and all(len(token) == 1 or added.get(token) for token in vocabulary) else None
