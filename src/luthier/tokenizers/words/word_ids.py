"""Fast encoding of long texts: each word is encoded by the backend's model once, and then looked up.

Few words of a text are new, so nearly all of the work is finding them (word_patterns.py) and looking them up. The ids
equal the backend's by construction: it encodes each word separately, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers.models import Model
from tokenizers.normalizers import Normalizer

from luthier.tokenizers.core.cleaning import clean
from luthier.tokenizers.core.pieces import BYTE_ALPHABET
from luthier.tokenizers.core.steps import steps
from luthier.tokenizers.words.word_patterns import Words, words_of

MOST_WORDS = 2**18  # in the cache: about 50 MB
LONGEST_WORD = 256  # characters of a cached word
IDS = np.dtype(np.uint32)
WRITTEN = dict(enumerate(BYTE_ALPHABET))  # how a byte-level vocabulary writes each byte
ID = attrgetter("id")


class WordIds(dict[str, bytes]):
    """Cache of each word's ids, as bytes of `IDS`, which are fast to join to an array."""

    def __init__(self, model: Model, *, byte_level: bool) -> None:
        super().__init__()
        self._tokenize, self._byte_level = model.tokenize, byte_level

    def __missing__(self, word: str) -> bytes:
        if not self._byte_level:
            text = word
        elif word.isascii() and word.isprintable():  # each byte is written as itself, but for spaces
            text = word.replace(" ", BYTE_ALPHABET[32])
        else:
            text = word.encode().decode("latin-1").translate(WRITTEN)
        ids = array("I", map(ID, self._tokenize(text))).tobytes()
        if len(word) <= LONGEST_WORD:
            if len(self) >= MOST_WORDS:  # frequent words are cached again soon
                self.clear()
            self[word] = ids
        return ids


class LongTexts:
    """Encodes texts like a backend with `encode_special_tokens`, which treats special tokens as plain text."""

    def __init__(self, backend: Backend, words: Words, normalize: Callable[[str], str]) -> None:
        self._words, self._normalize = words, normalize
        byte_level = any(step["type"] == "ByteLevel" for step in steps(backend.pre_tokenizer))
        self._ids = WordIds(backend.model, byte_level=byte_level)
        added = backend.get_added_tokens_decoder().values()
        self._apart = [token.content for token in added if not token.special]

    def encode(self, text: str) -> NDArray[np.uint32] | None:
        """Encode a text; None if the backend must encode it."""
        if any(token in text for token in self._apart):
            return None
        words = self._words.of(self._normalize(text))
        if words is None:
            return None
        return np.frombuffer(b"".join(map(self._ids.__getitem__, words)), IDS)


def long_texts(backend: Backend) -> LongTexts | None:
    """The fast encoder of a backend; None if it is not supported."""
    words, normalize = words_of(backend), _normalizing(backend)
    random = getattr(backend.model, "dropout", None)
    # tokens that are looked for in the normalized text; where nothing is normalized, they are found as the others are
    added = [] if backend.normalizer is None else backend.get_added_tokens_decoder().values()
    if words is None or random or any(token.normalized and not token.special for token in added):
        return None
    return LongTexts(backend, words, normalize)


def _normalizing(backend: Backend) -> Callable[[str], str]:
    """The normalization of a text before it is split into words."""
    normalize = _normalizer(backend.normalizer)
    match steps(backend.pre_tokenizer):
        case [{"type": "Metaspace", "replacement": str(space), "prepend_scheme": scheme}, *_]:

            def spaced(text: str) -> str:
                text = normalize(text).replace(" ", space)
                return space + text if text and scheme != "never" and not text.startswith(space) else text

            return spaced
    return normalize


def _normalizer(normalizer: Normalizer | None) -> Callable[[str], str]:
    """A normalizer whose simple steps are done in Python, which is faster."""
    each = [_plain(step) for step in steps(normalizer)]
    if normalizer is not None and not all(each):
        whole: Callable[[str], str] = normalizer.normalize_str
        return whole

    def normalize(text: str) -> str:
        for step in filter(None, each):
            text = step(text)
        return text

    return normalize


def _plain(step: dict[str, Any]) -> Callable[[str], str] | None:
    match step:
        case {"type": "Cleaning", "form": "none" | "NFC" | "NFKC" as form}:
            return lambda text: clean(text, form)
        case {"type": "Prepend", "prepend": str(begin)}:
            return lambda text: begin + text if text else text
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return lambda text: text.replace(old, new)
    return None
