"""`Tokenizer`, which encodes and decodes text, for all kinds of tokenizers, with a `tokenizers` backend.

    tokenizer = load("runs/demo")
    ids = tokenizer.encode("Once upon a time")
    tokenizer.decode(ids)                       # "Once upon a time"

A text is encoded unchanged, unless the tokenizer's file has normalization rules: a tokenizer trained for a run cleans
every text like the training text (see `cleaning`).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from luthier.errors import LuthierError
from luthier.files.atomic_folder import replacing
from luthier.tokenizers.core.bounds import Growth
from luthier.tokenizers.core.characters import CharacterTable, character_table
from luthier.tokenizers.core.cleaning import FORMS, Normalization, clean, put_on
from luthier.tokenizers.core.pieces import Pieces, decoder_before, pieces_of
from luthier.tokenizers.core.steps import cleaning_of
from luthier.tokenizers.core.stream import Stream
from luthier.tokenizers.words.word_ids import LongTexts, long_texts

STALE = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json")  # what another tokenizer may have left

LARGEST = 2**24  # tokens: the largest vocabularies have some 260,000


class Tokenizer:
    """Encodes and decodes text. Created by `load` and by the functions of `train`.

    bos, eos, pad, unk: the special tokens, which must be in the vocabulary. eos_ids: all ids that end a text, for
    models with several (only the eos token unless given). chat_template: Jinja source.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        unk: str | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
    ) -> None:
        backend.no_truncation()  # truncation and padding in a file would change the ids
        backend.no_padding()
        self.roles = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
        for role, token in self.roles.items():
            _make_special(backend, role, token)
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = (
            None if token is None else backend.token_to_id(token) for token in self.roles.values()
        )
        added = sorted(backend.get_added_tokens_decoder().items())
        self.special_tokens: dict[str, int] = {token.content: number for number, token in added if token.special}
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocab_size > LARGEST:
            raise LuthierError(f"the tokenizer's ids go up to {self.vocab_size - 1:,}: it is damaged")
        self.eos_ids: tuple[int, ...] = tuple(eos_ids) or (() if self.eos_id is None else (self.eos_id,))
        if outside := [number for number in self.eos_ids if not 0 <= number < self.vocab_size]:
            raise LuthierError(f"the end token {outside[0]} is outside the vocabulary of {self.vocab_size} tokens")
        self.chat_template = chat_template
        self.backend = backend
        self._lock = threading.Lock()
        self._special_ids = frozenset(self.special_tokens.values())
        self._characters = character_table(backend)
        self._cleaning = cleaning_of(backend.normalizer)
        self._growth = Growth(backend)

    def encode(self, text: str, *, special: bool = False, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of a text.

        special: encode special tokens in the text ("<|endoftext|>") as such; otherwise as plain text. bos, eos: add
        that token, if the tokenizer has one. Raises LuthierError for a character without a token (in character
        tokenizers only) and for a lone surrogate.
        """
        return self.encode_batch([text], special=special, bos=bos, eos=eos)[0]

    def encode_batch(
        self, texts: Sequence[str], *, special: bool = False, bos: bool = False, eos: bool = False
    ) -> list[list[int]]:
        """Encode texts on all cores; otherwise like `encode`."""
        rows = self._encode(list(texts), special)
        before = [self.bos_id] if bos and self.bos_id is not None else []
        after = [self.eos_id] if eos and self.eos_id is not None else []
        return [before + row + after for row in rows] if before or after else rows

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The same ids as `encode_batch`, many times faster for long texts, on one core.

        Worthwhile from about a hundred thousand characters on: its preparation takes a tenth of a second.
        """
        with _blaming(texts):
            if self._characters is not None:
                return [self._characters.ids(self.cleaned(text)) for text in texts]
            for text in texts:
                self._growth.check(text)
            words = self._long_texts
            found = [None if words is None else words.encode(text) for text in texts]
        left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        rows = iter(self._encode(left, special=False) if left else ())
        return [np.array(next(rows), np.uint32) if ids is None else ids for ids in found]

    @property
    def encodes_words(self) -> bool:
        """Whether `encode_arrays` uses word lookup. Otherwise it leaves most texts to the backend's threads."""
        return self._long_texts is not None

    def _encode(self, texts: list[str], special: bool) -> list[list[int]]:
        with _blaming(texts):
            if self._characters is not None:
                return [self._encode_characters(self._characters, text, special) for text in texts]
            for text in texts:
                self._growth.check(text)
            with self._lock:  # the switch belongs to the backend, and another thread may want it the other way
                self.backend.encode_special_tokens = not special
                encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _encode_characters(self, table: CharacterTable, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        place = 0
        for part in self._specials.split(text) if special else [text]:
            if special and part in self.special_tokens:
                ids.append(self.special_tokens[part])
            else:  # many times faster than the backend, which drops what it lacks
                ids += table.ids(self.cleaned(part), place).tolist()
            place += len(part)
        return ids

    def cleaned(self, text: str) -> str:
        """The text after cleaning (line ends, control characters, Unicode form), which `encode` applies too."""
        return text if self._cleaning is None else clean(text, self._cleaning)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Decode ids. Invalid UTF-8, which a model may generate, becomes U+FFFD.

        skip_special: leave out special tokens. Raises LuthierError for an id outside the vocabulary.
        """
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(number for number in ids if not 0 <= number < self.vocab_size)
            raise LuthierError(
                f"there is no token {wrong}: the ids of this tokenizer go from 0 to {self.vocab_size - 1}"
            )
        if skip_special:
            ids = [number for number in ids if number not in self._special_ids]
        if not self.pieces.joins:
            text: str = self.backend.decode(list(ids), skip_special_tokens=False)
            return text
        return self.pieces.text(ids)

    def stream(self) -> Stream:
        """An incremental decoder: `push(id)` returns completed characters, `flush()` the rest."""
        return Stream(self)

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character."""
        if not 0 <= token < self.vocab_size:
            raise LuthierError(
                f"there is no token {token}: the ids of this tokenizer go from 0 to {self.vocab_size - 1}"
            )
        return self.pieces.table[token]

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `load` and `transformers.AutoTokenizer` read."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # any other would build its own backend around our vocabulary
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            **{role: token for role, token in self.roles.items() if token is not None},
            **({} if self.chat_template is None else {"chat_template": self.chat_template}),
        }
        with replacing(Path(folder), stale=STALE, last="tokenizer.json") as staging:
            (staging / "tokenizer.json").write_text(self.to_json(pretty=True) + "\n", encoding="utf-8")
            (staging / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def with_cleaning(self, normalization: Normalization) -> Tokenizer:
        """Return the tokenizer with `cleaning`'s rules first, so that prompts are cleaned like the training text."""
        if self._cleaning is not None and FORMS.index(self._cleaning) >= FORMS.index(normalization):
            return self
        backend = Backend.from_str(self.to_json())
        put_on(backend, normalization)
        roles = {role.removesuffix("_token"): token for role, token in self.roles.items()}
        return Tokenizer(backend, **roles, eos_ids=self.eos_ids, chat_template=self.chat_template)

    def to_json(self, *, pretty: bool = False) -> str:
        """The content of tokenizer.json: everything except the settings and special token roles."""
        with self._lock:
            content: str = self.backend.to_str(pretty=pretty)
        return content

    @cached_property
    def pieces(self) -> Pieces:
        """The bytes of every token."""
        return pieces_of(self.backend)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content of tokenizer.json, in hexadecimal: equal ones give equal ids."""
        state = json.loads(self.to_json())
        state["decoder"] = decoder_before(state["decoder"])
        content = json.dumps(state, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def adds_bos(self) -> bool:
        """Whether this tokenizer's post-processor adds the bos token, as in `transformers`."""
        return self.bos_id is not None and self.backend.encode("").ids[:1] == [self.bos_id]

    @cached_property
    def _long_texts(self) -> LongTexts | None:
        return long_texts(self.backend)

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens, {len(self.special_tokens)} special)"


def is_backends(error: BaseException) -> bool:
    """Whether an error comes from the backend, which has no exception class; its panics are BaseExceptions."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def _blaming(texts: Sequence[str]) -> Iterator[None]:
    """Convert a backend's failure to encode texts into a LuthierError, about the text if that is invalid."""
    try:
        yield
    except LuthierError:
        raise
    except BaseException as error:
        for text in texts:
            check(text)
        if not is_backends(error):
            raise
        raise LuthierError(f"this tokenizer cannot encode the text: {error}") from None


def check(text: str) -> None:
    """Raise a LuthierError if a text cannot be encoded as UTF-8, and TypeError if it is not a str."""
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise LuthierError(
            f"character {error.start} of the text is {half}, half of a surrogate pair and no Unicode text: "
            "read the file as UTF-8, or replace such characters"
        ) from None


def _make_special(backend: Backend, role: str, token: str | None) -> None:
    if token is None:
        return
    number = backend.token_to_id(token)
    if number is None:
        raise LuthierError(f"the {role} {token!r} is not in the tokenizer's vocabulary")
    known = backend.get_added_tokens_decoder().get(number)
    if known is None or not known.special:  # transformers would do the same when it reads the file
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
