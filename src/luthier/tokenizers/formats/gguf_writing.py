"""Convert a tokenizer to GGUF metadata, which llama.cpp and `from_gguf` read."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.models import BPE

from luthier.errors import LuthierError
from luthier.tokenizers.core.merges import merges_of
from luthier.tokenizers.core.pieces import BYTE, SPACE
from luthier.tokenizers.core.steps import cleaning_of, steps, without_cleaning
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.gguf_words import name_of, words_of
from luthier.tokenizers.formats.sentencepiece_file import Kind
from luthier.tokenizers.formats.sentencepiece_model import words_pattern

KEY = "tokenizer.ggml."
CLEANING = "tokenizer.luthier.cleaning"  # Luthier's own key, which llama.cpp ignores
UNSAID_OF_BPE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
UNSAID_OF_TOKENS = ("lstrip", "rstrip", "single_word")
Fields = dict[str, Any]


def to_gguf(tokenizer: Tokenizer, vocab_size: int) -> Fields:
    """The metadata from which `from_gguf` and llama.cpp build a tokenizer with the same ids.

    vocab_size: rows of the model's embedding, to which the list is padded with unused tokens. Raises LuthierError for
    a tokenizer that GGUF cannot express. llama.cpp differs in these points: with SentencePiece vocabularies, "▁" in a
    text is a space, and "</s>" in plain text may become that token; some pre-tokenizers differ (see gguf_words); and
    texts are not cleaned (see cleaning), so clean them first.
    """
    if vocab_size < tokenizer.vocab_size:
        raise LuthierError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model has {vocab_size}")
    state = json.loads(tokenizer.backend.to_str())  # the backend exposes its merges only here
    model = state["model"]
    if model["type"] != "BPE" or any(model[key] for key in UNSAID_OF_BPE):
        raise LuthierError(
            f"this tokenizer ({model['type']}) has no form in a GGUF file; plain BPE and characters have"
        )
    for token in state["added_tokens"]:
        if any(token[key] for key in UNSAID_OF_TOKENS):
            raise LuthierError(
                f"{token['content']!r} takes the spaces beside it, or only whole words: GGUF cannot say so"
            )
    tokens = _tokens(tokenizer, vocab_size)
    kinds = _kinds(tokenizer, state)
    if any(step["type"] == "ByteLevel" for step in steps(tokenizer.backend.pre_tokenizer)):
        vocabulary = _byte_level(tokenizer, model)
    elif unknown := model["unk_token"] or tokenizer.roles["unk_token"]:
        kinds[tokens.index(unknown)] = Kind.UNKNOWN
        vocabulary = _sentencepiece(tokenizer, model, tokens, kinds)
    else:
        vocabulary = _characters(tokenizer, tokens, kinds)
    types = [int(kinds.get(number, Kind.UNUSED)) for number in range(vocab_size)]
    fields = {"tokens": tokens, "token_type": types, **vocabulary, **_roles(tokenizer)}
    template = {} if tokenizer.chat_template is None else {"tokenizer.chat_template": tokenizer.chat_template}
    form = cleaning_of(tokenizer.backend.normalizer)
    cleaning = {} if form is None else {CLEANING: form}
    return {KEY + name: value for name, value in fields.items()} | template | cleaning


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """The tokens by id; unused ids get "[PAD7]", as in llama.cpp's converter."""
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    if cut := [token for token in ids if "\0" in token]:
        raise LuthierError(f"the token {cut[0]!r} has no form in a GGUF file: NUL ends a token in llama.cpp")
    tokens = {number: token for token, number in ids.items()}
    for number in range(vocab_size):
        name = f"[PAD{number}]"
        while number not in tokens and name in ids:
            name += "_"
        tokens.setdefault(number, name)
    return [tokens[number] for number in range(vocab_size)]


def _kinds(tokenizer: Tokenizer, state: dict[str, Any]) -> dict[int, Kind]:
    bytes_too = state["model"]["byte_fallback"]
    kinds = {
        number: Kind.BYTE if bytes_too and BYTE.fullmatch(token) else Kind.NORMAL
        for token, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()
    }
    added = {token["id"]: Kind.CONTROL if token["special"] else Kind.USER_DEFINED for token in state["added_tokens"]}
    return kinds | added


def _roles(tokenizer: Tokenizer) -> Fields:
    """The ids of special roles, and whether bos and eos are added. GGUF has ends of a text, a turn and a message."""
    names = {number: token for token, number in tokenizer.special_tokens.items()}
    others = [number for number in tokenizer.eos_ids if number != tokenizer.eos_id]
    message = next((number for number in others if "eom" in names.get(number, "")), None)
    frame = tokenizer.backend.encode("").ids
    roles = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "eot_token_id": next((number for number in others if number != message), None),
        "eom_token_id": message,
        "padding_token_id": tokenizer.pad_id,
        "unknown_token_id": tokenizer.unk_id,
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": frame[int(tokenizer.adds_bos) :] == [tokenizer.eos_id],
    }
    return {name: value for name, value in roles.items() if value is not None}


def _byte_level(tokenizer: Tokenizer, model: dict[str, Any]) -> Fields:
    name = name_of(tokenizer.backend)
    if model["ignore_merges"] != words_of(name).takes_whole:  # the ids differ only where merges do not lead to a token
        merging = BPE(model["vocab"], [(left, right) for left, right in model["merges"]])
        ordinary = (token for token in model["vocab"] if token not in tokenizer.special_tokens)
        if lost := next((token for token in ordinary if len(merging.tokenize(token)) > 1), None):
            raise LuthierError(f"no merges lead to the token {lost!r}, so GGUF's {name!r} would not make the same ids")
    return {"model": "gpt2", "pre": name, "merges": [f"{left} {right}" for left, right in model["merges"]]}


def _sentencepiece(tokenizer: Tokenizer, model: dict[str, Any], tokens: list[str], kinds: dict[int, Kind]) -> Fields:
    prefix = _puts_a_space_before(tokenizer)
    if model["ignore_merges"]:
        raise LuthierError("user-defined pieces of a SentencePiece model have no form in a GGUF file")
    pieces = [token for number, token in enumerate(tokens) if kinds.get(number) is Kind.NORMAL]
    ranks = _ranks(pieces, [(left, right) for left, right in model["merges"]])
    # the last rank for what is no piece of a text: llama.cpp may join a text's characters to it all the same
    scores = [-float(ranks.get(token, len(tokens))) for token in tokens]
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}


def _puts_a_space_before(tokenizer: Tokenizer) -> bool:
    """Whether a leading space is added to a text. Raises LuthierError for normalization that GGUF cannot express.

    transformers' Metaspace is taken for SentencePiece's rule, though it puts no space before a text that begins with
    one, and none (as "first") after a special token: it stands for that rule, and GGUF knows no other.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    words = {"type": "Split", "pattern": {"Regex": words_pattern()}, "behavior": "Isolated", "invert": False}
    found = [*without_cleaning(tokenizer.backend.normalizer), *steps(tokenizer.backend.pre_tokenizer)]
    if found[-1:] == [words]:
        found.pop()
    match found:
        case [{"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": scheme}]:
            return bool(scheme != "never")
    if found == [replace]:
        return False
    if found[1:] == [replace] and found[0] in ({"type": "Prepend", "prepend": space} for space in (" ", SPACE)):
        return True
    raise LuthierError(
        "the tokenizer makes texts ready in a way that a GGUF file cannot say: it may put a space before and write "
        f"spaces as {SPACE!r}, but this one does {', '.join(step['type'] for step in found) or 'nothing'}"
    )


def _ranks(pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    """Ranks of the pieces with which merging by lowest rank is equivalent to the merges.

    Of the pairs that make a piece only the one of `merges_of` is ever met, so it does where these come in the order of
    the merges. Llama 2's tokenizer.json has all the others too, and for runs of spaces they come first.
    """
    place = {pair: number for number, pair in enumerate(merges)}
    known = set(pieces)
    order = [left + right for left, right in merges if left + right in known]
    for _ in range(2):
        ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys([*order, *pieces]))}
        joined = merges_of(ranks, ranks)
        if not place.keys() >= set(joined):
            break
        in_order = sorted(joined, key=place.__getitem__)
        if in_order == joined:
            return ranks
        order = [left + right for left, right in in_order]
    raise LuthierError("no scores of pieces do the same as this tokenizer's merges, so GGUF has no form for it")


def _characters(tokenizer: Tokenizer, tokens: list[str], kinds: dict[int, Kind]) -> Fields:
    """Pieces of one character without merges: llama.cpp looks each up, with byte fallback."""
    several = [token for number, token in enumerate(tokens) if kinds.get(number) is Kind.NORMAL and len(token) > 1]
    if several or without_cleaning(tokenizer.backend.normalizer) or steps(tokenizer.backend.pre_tokenizer):
        raise LuthierError(
            "this BPE tokenizer has no form in a GGUF file: it writes neither bytes as GPT-2 does, nor unknown "
            "characters as SentencePiece does"
        )
    if SPACE in tokens:
        raise LuthierError(
            f"the tokenizer has the character {SPACE!r} (U+2581), which stands for a space in GGUF files"
        )
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [SPACE if piece == " " else piece for piece in tokens],
        "scores": [-float(number) for number in range(len(tokens))],
        "add_space_prefix": False,
    }
