"""SentencePiece models (Kudo and Richardson 2018, arXiv 1808.06226) as a `tokenizers` backend with the same ids.

SentencePiece treats a text as one string with "▁" for spaces, and merges pairs (BPE) or finds the most probable
segmentation (unigram) over its whole length. If no piece has "▁" after another character, no piece spans two words, so
the backend can encode words separately: the same ids, a hundred times faster. Only if two segmentations of a unigram
model are equally probable ("aaa" as "aa" and "a"), SentencePiece's 32-bit and the backend's 64-bit rounding may choose
different ones.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram

from luthier.errors import LuthierError
from luthier.tokenizers.core.merges import merges_of
from luthier.tokenizers.core.pieces import LEADING, SPACE
from luthier.tokenizers.core.plain import NEVER, cuts, harden, literal
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.charsmap import normalizing
from luthier.tokenizers.formats.sentencepiece_file import Algorithm, Kind, Model, Piece, read_model

TEXT = (Kind.NORMAL, Kind.USER_DEFINED)
Begin = Literal["own", "always", "first", "never"]


def read_sentencepiece(path: str | Path, begin: Begin = "own") -> Tokenizer:
    """Load the tokenizer of a SentencePiece `.model` file: BPE, unigram or characters.

    begin: where a leading space is added. "own": by the model's setting, as in SentencePiece. The others are the rules
    of transformers' LlamaTokenizer, which adds none to a text that begins with a space: "always" (at the beginning and
    after each added token), "first" (at the beginning only), "never". Raises LuthierError for a broken file, and for
    features that tokenizer.json cannot express.
    """
    path = Path(path)
    model = read_model(path)
    try:
        return build(model, begin)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None


def build(model: Model, begin: Begin = "own") -> Tokenizer:
    """The tokenizer of a model. begin: see `read_sentencepiece`."""
    if model.algorithm is Algorithm.WORD:
        raise LuthierError("a SentencePiece model of whole words (--model_type=word) has no form in tokenizer.json")
    if model.space_after_words or not model.escape_whitespaces:
        raise LuthierError(
            "a SentencePiece model that writes spaces otherwise than '▁word' has no form in tokenizer.json"
        )
    texts = [piece.text for piece in model.pieces]
    if len(set(texts)) < len(texts) or "" in texts:
        raise LuthierError("two pieces of the SentencePiece model are the same, or one is empty")
    control = [piece.text for piece in model.pieces if piece.kind in (Kind.UNKNOWN, Kind.CONTROL)]
    unknown = [piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN]
    if len(unknown) != 1:
        raise LuthierError(f"a SentencePiece model has one piece for unknown characters, this one {len(unknown)}")
    if begin == "never":
        model = replace(model, add_dummy_prefix=False)
    # rules of normalization are SentencePiece's own, which transformers leaves out: then only "never" is followed
    if model.algorithm is not Algorithm.BPE or model.charsmap or model.remove_extra_whitespaces:
        begin = "own"
    backend = _unigram(model) if model.algorithm is Algorithm.UNIGRAM else _bpe(model, unknown[0])
    if begin != "own":
        metaspace = pre_tokenizers.Metaspace(SPACE, prepend_scheme=begin, split=False)
        words = backend.pre_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([metaspace] if words is None else [metaspace, words])
    else:
        backend.normalizer = _normalizer(model)
    # the space at the beginning goes while it is a "▁" still: a byte's space (<0x20>) is the text's own
    prefixed = model.add_dummy_prefix or begin in ("always", "first")
    leading = [decoders.Replace(Regex(LEADING), "")] if prefixed else []
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), *leading, decoders.Replace(SPACE, " ")]
    )
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    backend = Backend.from_str(harden(backend.to_str()))
    bos, eos, pad = (text if (text := model.roles[role]) in control else None for role in ("bos", "eos", "pad"))
    return Tokenizer(backend, bos=bos, eos=eos, pad=pad, unk=unknown[0])


def _bpe(model: Model, unknown: str) -> Backend:
    # of the same score (Llama 2's runs of spaces) the leftmost joins first: what has begun grows as long as it can
    ordinary = [piece for piece in model.pieces if piece.kind is Kind.NORMAL]
    by_score = sorted(ordinary, key=lambda piece: (-piece.score, -len(piece.text)))
    ranks = {piece.text: rank for rank, piece in enumerate(by_score)}
    merges = merges_of(ranks, ranks) if model.algorithm is Algorithm.BPE else []
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    if lost := next((left + right for left, right in merges if not {left, right} <= ranks.keys()), None):
        raise LuthierError(f"the SentencePiece piece {lost!r} is made of parts that are no pieces")
    # user-defined pieces have no merges: the words' pattern sets them apart, and a whole word that is a piece is taken
    takes_whole = any(piece.kind is Kind.USER_DEFINED for piece in model.pieces)
    bpe = BPE(
        vocabulary,
        merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=takes_whole,
    )
    backend = Backend(bpe)
    defined = [piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED]
    steps = _words(model, defined)
    if takes_whole:
        used = {piece.text for piece in model.pieces if piece.kind in TEXT}
        found = cuts(vocabulary.keys() - used, used)
        if found.uncut:
            raise LuthierError(f"plain text may hold the SentencePiece piece {found.uncut[0]!r}, which is none")
        steps.append(pre_tokenizers.Split(Regex(found.pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if steps else None
    return backend


def _unigram(model: Model) -> Backend:
    normal = [piece.score for piece in model.pieces if piece.kind is Kind.NORMAL]
    if not normal:
        raise LuthierError("the SentencePiece model has no ordinary pieces")

    def score(piece: Piece) -> float:
        match piece.kind:
            case Kind.NORMAL:
                return piece.score
            case Kind.USER_DEFINED:  # as SentencePiece has it, so that they win against their parts
                return len(piece.text.encode()) * max(normal) - 0.1
            case Kind.UNUSED:
                return NEVER
        return 0.0  # never reached, and not low: the score of an unknown character is reckoned from the lowest

    vocabulary = [(piece.text, score(piece)) for piece in model.pieces]
    unknown = next(number for number, piece in enumerate(model.pieces) if piece.kind is Kind.UNKNOWN)
    backend = Backend(Unigram(vocabulary, unk_id=unknown, byte_fallback=model.byte_fallback))
    steps = _words(model, [])
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if steps else None
    return backend


def _words(model: Model, defined: list[str]) -> list[pre_tokenizers.PreTokenizer]:
    """Pre-tokenizers that split words and user-defined pieces, as far as no piece spans two of them."""
    used = [piece.text for piece in model.pieces if piece.kind in TEXT]
    apart = SPACE in used and not any(re.search(f"[^{SPACE}]{SPACE}", text) for text in used)
    either = "|".join(map(literal, sorted(defined, key=len, reverse=True)))
    free = f"(?!{either})" if defined else ""
    words = words_pattern(free) if apart else rf"(?:{free}[\s\S])+"
    if not defined and not apart:
        return []
    return [pre_tokenizers.Split(Regex(f"{either}|{words}" if defined else words), "isolated")]


def words_pattern(free: str = "") -> str:
    """Pattern of a word with its preceding spaces. free: a pattern that must not start at any of its characters."""
    return f"(?:{free}{SPACE})*(?:{free}[^{SPACE}])+|(?:{free}{SPACE})+"


def _normalizer(model: Model) -> normalizers.Normalizer:
    begin = [normalizers.Prepend(" ")] if model.add_dummy_prefix else []
    rules = list(normalizing(model.charsmap)) if model.charsmap else []
    if model.remove_extra_whitespaces:  # the space at the beginning is put there afterwards, and not before nothing
        ends, runs = Regex(rf"\A +|[ {SPACE}]+\z"), Regex(" {2,}")
        steps = [*rules, normalizers.Replace(ends, ""), normalizers.Replace(runs, " "), *begin]
    else:
        steps = [*begin, *rules]
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
