"""The tokenizer inside a GGUF file, as the file's metadata say it, in keys of llama.cpp's that begin with `tokenizer.`

Two kinds of vocabulary are supported: "gpt2", byte-level BPE with merges and the name of a pre-tokenizer, and "llama",
SentencePiece pieces with scores. Luthier's character tokenizers are stored as the latter, without merges. The metadata
are untrusted: every type, length and id is checked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE

from luthier.errors import LuthierError
from luthier.tokenizers.core.cleaning import FORMS, put_on
from luthier.tokenizers.core.pieces import BYTE, SPACE
from luthier.tokenizers.core.post_processor import set_post_processor
from luthier.tokenizers.core.tokenizer import LARGEST, Tokenizer
from luthier.tokenizers.core.train import backend_of_characters
from luthier.tokenizers.formats.gguf_ends import ends_by_name
from luthier.tokenizers.formats.gguf_words import unnamed, words_of
from luthier.tokenizers.formats.gguf_writing import CLEANING, to_gguf
from luthier.tokenizers.formats.sentencepiece_file import Algorithm, Kind, Model, Piece
from luthier.tokenizers.formats.sentencepiece_model import build

__all__ = ["from_gguf", "to_gguf"]

KEY, TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
ROLES = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "pad": "padding", "unk": "unknown"}
SPECIAL = (Kind.CONTROL, Kind.UNKNOWN)
ADDED = (*SPECIAL, Kind.USER_DEFINED)  # found in a text before anything else is


class Vocabulary(NamedTuple):
    """The tokens by id, the type of each, and the ids of special roles."""

    tokens: list[str]
    kinds: list[Kind]
    roles: dict[str, int]

    def added(self) -> list[int]:
        """Ids of the added tokens, which are matched in a text first."""
        return [number for number, kind in enumerate(self.kinds) if kind in ADDED]


def from_gguf(fields: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a GGUF file's metadata; None if it has none.

    fields: the metadata as plain Python values. Raises LuthierError for invalid or unsupported metadata.
    """
    match _take(fields, "model", str, "none"):
        case "none" | "no_vocab":
            return None
        case "gpt2":
            vocabulary = _vocabulary(fields)
            backend, adds_bos = _byte_level(fields, vocabulary)
        case "llama":
            vocabulary = _vocabulary(fields)
            backend, adds_bos = _sentencepiece(fields, vocabulary), True
        case model:
            raise LuthierError(
                f"the GGUF file's tokenizer is of the kind {model!r:.80}; known are 'gpt2' (byte-level BPE) and "
                "'llama' (SentencePiece's BPE)"
            )
    names = {role: vocabulary.tokens[number] for role, number in vocabulary.roles.items()}
    begin = names.get("bos") if _take(fields, "add_bos_token", bool, adds_bos) else None
    end = names.get("eos") if _take(fields, "add_eos_token", bool, False) else None
    set_post_processor(backend, begin, end)
    cleaning = _checked(fields.get(CLEANING), CLEANING, str)
    if cleaning is not None:
        if cleaning not in FORMS:
            raise LuthierError(f"the GGUF file's {CLEANING} is {cleaning!r:.80}; known are {', '.join(FORMS)}")
        put_on(backend, cleaning)
    ends = [vocabulary.roles[role] for role in ("eos", "eom", "eot") if role in vocabulary.roles]
    ends += ends_by_name(vocabulary.tokens)
    return Tokenizer(
        backend,
        bos=names.get("bos"),
        eos=names.get("eos"),
        pad=names.get("pad"),
        unk=names.get("unk"),
        eos_ids=list(dict.fromkeys(ends)),
        chat_template=_checked(fields.get(TEMPLATE), TEMPLATE, str),
    )


def _vocabulary(fields: Mapping[str, Any]) -> Vocabulary:
    tokens = _list(fields, "tokens", (str,))
    if not 0 < len(tokens) <= LARGEST:
        raise LuthierError(f"the GGUF file's tokenizer has {len(tokens):,} tokens: something is broken")
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if not token:
            raise LuthierError(f"token {number} of the GGUF file is empty")
        if ids.setdefault(token, number) != number:
            raise LuthierError(f"tokens {ids[token]} and {number} of the GGUF file are the same: {token!r:.80}")
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        raise LuthierError(f"a token of the GGUF file is no Unicode text: {error.reason}") from None
    numbers = _list(fields, "token_type", (int,), len(tokens)) or [Kind.NORMAL] * len(tokens)
    if unknown := set(numbers).difference(Kind):
        raise LuthierError(f"a token of the GGUF file has the type {min(unknown)}; known are {[*map(int, Kind)]}")
    roles = {role: _take(fields, f"{key}_token_id", int) for role, key in ROLES.items()}
    given = {role: number for role, number in roles.items() if number is not None}
    for role, number in given.items():
        if not 0 <= number < len(tokens):
            raise LuthierError(f"the GGUF file's {role} token is {number}, but its tokens are 0 to {len(tokens) - 1}")
    # unused tokens at the end only fill the embedding's rows up
    used = (number for number in range(len(tokens) - 1, -1, -1) if numbers[number] != Kind.UNUSED)
    size = 1 + max(next(used, 0), *given.values(), 0)
    known = {kind.value: kind for kind in Kind}
    kinds = [known[number] for number in numbers[:size]]
    pieces = fields.get(KEY + "model") == "llama"
    if pieces and {f"<0x{byte:02X}>" for byte in range(256)} <= ids.keys():
        kinds = [Kind.BYTE if BYTE.fullmatch(token) else kind for token, kind in zip(tokens, kinds, strict=False)]
    # what ends a text is no text, whatever a converter called it; nor is what has a role, where it said nothing
    control = [*ends_by_name(tokens[:size]), *(given.values() if KEY + "token_type" not in fields else ())]
    for number in control:
        if kinds[number] is not Kind.UNKNOWN and number != given.get("unk"):
            kinds[number] = Kind.CONTROL
    return Vocabulary(tokens[:size], kinds, given)


def _byte_level(fields: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[Backend, bool]:
    """(backend, whether the bos token is added if the file does not say)."""
    tokens, kinds, _ = vocabulary
    words = words_of(_take(fields, "pre", str) or unnamed(tokens, fields.get("general.architecture")))
    size = len(tokens)
    while words.takes_whole and size and kinds[size - 1] in ADDED:
        size -= 1  # a special token's name among the ordinary ones would be taken for it where it is a word of a text
    ids = {token: number for number, token in enumerate(tokens[:size])}
    backend = Backend(BPE(ids, _merges(fields, ids), ignore_merges=words.takes_whole))
    backend.normalizer, backend.pre_tokenizer = words.normalizer, words.pre_tokenizer
    backend.decoder = ByteLevelDecoder()
    _add(backend, vocabulary, vocabulary.added())
    return backend, words.adds_bos


def _merges(fields: Mapping[str, Any], ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges, validated: the backend would panic on some invalid ones."""
    texts: list[str] = _list(fields, "merges", (str,))
    merges = []
    for number, merge in enumerate(texts):
        left, space, right = merge.partition(" ")
        if not space or left not in ids or right not in ids or left + right not in ids:
            raise LuthierError(f"merge {number} of the GGUF file, {merge!r:.80}, does not join two tokens to a third")
        merges.append((left, right))
    if len(set(texts)) < len(texts):
        merge, _ = Counter(texts).most_common(1)[0]
        raise LuthierError(f"merge {texts.index(merge)} of the GGUF file, {merge!r:.80}, comes more than once")
    return merges


def _sentencepiece(fields: Mapping[str, Any], vocabulary: Vocabulary) -> Backend:
    tokens, kinds, roles = vocabulary
    prefix = _take(fields, "add_space_prefix", bool, True)
    scores = _list(fields, "scores", (float, int))[: len(tokens)]
    if len(scores) < len(tokens) or not all(map(math.isfinite, scores)):
        raise LuthierError(f"the GGUF file's {KEY}scores must be {len(tokens)} finite numbers")
    if Kind.UNKNOWN not in kinds:
        unknown = roles.get("unk", tokens.index("<unk>") if "<unk>" in tokens else None)
        if unknown is None and not prefix:
            return _characters(vocabulary)
        if unknown is not None:
            kinds[unknown] = Kind.UNKNOWN
    if len({score for score, kind in zip(scores, kinds, strict=True) if kind is Kind.NORMAL}) == 1:
        scores = [-float(number) for number in range(len(tokens))]  # a converter knew none: ids are in the same order
    # what the file's maker added to the pieces is looked for before spaces are written as "▁", so not as a piece
    pieces = [
        Piece(token, score, Kind.UNUSED if kind is Kind.USER_DEFINED else kind)
        for token, score, kind in zip(tokens, scores, kinds, strict=True)
    ]
    model = Model(
        pieces=pieces,
        algorithm=Algorithm.BPE,
        byte_fallback=Kind.BYTE in kinds,
        space_after_words=False,
        roles={role: tokens[roles[role]] if role in roles else "" for role in ("unk", "bos", "eos", "pad")},
        rules_name="identity",
        charsmap=b"",
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=_take(fields, "remove_extra_whitespaces", bool, False),
        escape_whitespaces=True,
    )
    backend = build(model).backend
    _add(backend, vocabulary, [number for number in vocabulary.added() if kinds[number] is Kind.USER_DEFINED])
    return backend


def _characters(vocabulary: Vocabulary) -> Backend:
    """Luthier's character tokenizers: pieces of one character, no merges, no unknown token."""
    tokens, kinds, _ = vocabulary
    ids = {" " if token == SPACE else token: number for number, token in enumerate(tokens)}
    plain = [token for token, kind in zip(tokens, kinds, strict=True) if kind not in (*ADDED, Kind.BYTE)]
    if len(ids) < len(tokens) or any(len(token) > 1 for token in plain):
        raise LuthierError("the GGUF file's SentencePiece vocabulary has no piece for unknown characters")
    if Kind.BYTE in kinds and not {f"<0x{byte:02X}>" for byte in range(256)} <= ids.keys():
        raise LuthierError("the GGUF file's vocabulary has pieces for some bytes and not for others")
    backend = backend_of_characters(ids, byte_fallback=Kind.BYTE in kinds)
    _add(backend, vocabulary, vocabulary.added())
    return backend


def _add(backend: Backend, vocabulary: Vocabulary, numbers: list[int]) -> None:
    """Add these tokens to the backend, to be matched first. New ones get their ids."""
    for special, group in groupby(numbers, lambda number: vocabulary.kinds[number] in SPECIAL):
        tokens = [AddedToken(vocabulary.tokens[number], special=special, normalized=False) for number in group]
        backend.add_special_tokens(tokens) if special else backend.add_tokens(tokens)


def _take(fields: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = _checked(fields.get(KEY + name), KEY + name, kind)
    return default if value is None else value


def _checked(value: Any, key: str, kind: type) -> Any:
    if value is not None and type(value) is not kind:
        raise LuthierError(f"the GGUF file's {key} must be a {kind.__name__}, it is a {type(value).__name__}")
    return value


def _list(fields: Mapping[str, Any], name: str, kinds: tuple[type, ...], length: int | None = None) -> list[Any]:
    """A list of values of these types; empty if the file has none."""
    values: list[Any] = _take(fields, name, list, [])
    if wrong := set(map(type, values)).difference(kinds):
        raise LuthierError(
            f"the GGUF file's {KEY}{name} must hold values of the type {kinds[0].__name__}, it holds a "
            f"{wrong.pop().__name__}"
        )
    if values and length is not None and len(values) != length:
        raise LuthierError(f"the GGUF file's {KEY}{name} has {len(values):,} values for {length:,} tokens")
    return values
