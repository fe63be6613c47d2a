"""The ways to part a text into words before any merge, by the names that GGUF files have for them.

The names are llama.cpp's. What they mean is taken from the models' own tokenizer.json or tiktoken files: these are the
reference. llama.cpp follows them with regular expressions of its own, and parts some texts otherwise: for `llama4` and
`tekken` it leaves combining marks (of Hindi, Arabic...) out of words and tells capitals in ASCII only, and for `qwen2`
it does not compose accents (NFC). transformers, where it has nothing but a GGUF file, knows just some of the names: for
`smollm` it leaves digits together.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from luthier.errors import LuthierError
from luthier.tokenizers.core.steps import steps, without_cleaning
from luthier.tokenizers.formats.tiktoken_model import ENDINGS, LLAMA3_WORDS, LLAMA4_WORDS

THREE_DIGITS, ONE_DIGIT = r"\p{N}{1,3}", r"\p{N}"
QWEN2_WORDS = LLAMA3_WORDS.replace(THREE_DIGITS, ONE_DIGIT)
TEKKEN_WORDS = LLAMA4_WORDS.replace(THREE_DIGITS, ONE_DIGIT).replace(f"{ENDINGS}?", "")
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEFAULT_WORDS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]")

NAMES = {  # each name, and the one of those with the same meaning that is written
    "gpt-2": "gpt-2",
    "phi-2": "gpt-2",
    "smollm": "smollm",
    "starcoder": "smollm",
    "refact": "smollm",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "llama4": "llama4",
    "gpt-4o": "llama4",
    "qwen2": "qwen2",
    "tekken": "tekken",
    "default": "default",
}


class Words(NamedTuple):
    """What a name stands for."""

    pre_tokenizer: PreTokenizer
    normalizer: Normalizer | None = None
    takes_whole: bool = False  # a word that is a token is that token, even if no merges lead there
    adds_bos: bool = False  # where the file does not say whether texts begin with the bos token


def words_of(name: str) -> Words:
    """What a name stands for. Raises LuthierError for an unknown one."""
    if name not in NAMES:
        raise LuthierError(
            f"the GGUF file parts words as {name!r:.80} (tokenizer.ggml.pre), which is not known; known are: "
            + ", ".join(NAMES)
        )
    return _meaning(NAMES[name])


def _meaning(name: str) -> Words:
    match name:
        case "gpt-2":
            return Words(ByteLevel(add_prefix_space=False))
        case "smollm":
            # digits go first, so the space before a number stays with those before it
            return Words(Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]))
        case "llama-bpe":
            return Words(_splits(LLAMA3_WORDS), takes_whole=True, adds_bos=True)
        case "llama4":
            return Words(_splits(LLAMA4_WORDS), takes_whole=True)
        case "qwen2":
            return Words(_splits(QWEN2_WORDS), NFC())
        case "tekken":
            return Words(_splits(TEKKEN_WORDS), takes_whole=True, adds_bos=True)
    return Words(_splits(*DEFAULT_WORDS))


def _splits(*patterns: str) -> PreTokenizer:
    splits = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def name_of(backend: Backend) -> str:
    """The name of a byte-level backend's way. Raises LuthierError where none means it."""
    way = (without_cleaning(backend.normalizer), steps(backend.pre_tokenizer))
    for name in dict.fromkeys(NAMES.values()):
        words = _meaning(name)
        if way == (steps(words.normalizer), steps(words.pre_tokenizer)):
            return name
    raise LuthierError(
        "the tokenizer parts words in a way that no name in GGUF files (tokenizer.ggml.pre) stands for: "
        f"{json.dumps(way[0] + way[1], ensure_ascii=False)[:300]}"
    )
