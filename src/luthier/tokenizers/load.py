"""Load any kind of tokenizer, detected by its files.

load("runs/demo")           # a folder: a training run, a Hugging Face model, one of Meta's or OpenAI's
load("tokenizer.json")
load("tokenizer.model")     # SentencePiece's, or tiktoken's as Meta writes it
load("gpt2")                # by name
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Backend

from luthier.errors import LuthierError, UsageError
from luthier.files.kind_of_file import check_download
from luthier.files.reading import read_bytes, read_text
from luthier.tokenizers.core.bounds import check
from luthier.tokenizers.core.plain import hardened
from luthier.tokenizers.core.tokenizer import Tokenizer, is_backends
from luthier.tokenizers.folder_settings import ADDED, CONFIG, ROLES, settings_of, with_settings
from luthier.tokenizers.formats.gguf_words import words_of
from luthier.tokenizers.formats.gpt2 import END_OF_TEXT, byte_level, gpt2
from luthier.tokenizers.formats.sentencepiece_model import Begin, read_sentencepiece
from luthier.tokenizers.formats.tiktoken_model import is_tiktoken, read_tiktoken

BYTE_LEVEL_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
FILES = (
    "tokenizer.json",
    "tokenizer.model",
    *(name for pair in BYTE_LEVEL_FILES for name in pair),
    CONFIG,
    ADDED,
    ROLES,
)
BYTE_LEVEL_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
LLAMA_CLASSES = ("LlamaTokenizer", "CodeLlamaTokenizer")
TAKES = (
    "a folder with a tokenizer.json, a tokenizer.model, or vocab.json with merges.txt (or encoder.json with "
    'vocab.bpe); a tokenizer.json; a .model of SentencePiece or tiktoken; or "gpt2"'
)


def load(path: str | Path) -> Tokenizer:
    """Load a tokenizer by path or name. Raises LuthierError that says what is wrong, or what is supported."""
    if not str(path):
        raise UsageError(f"an empty name is no tokenizer: give {TAKES}")
    place = Path(path)
    if place.is_dir():
        _check_downloads(place)
        return _from_folder(place)
    if place.is_file():
        check_download(place)
        if place.name in FILES:
            _check_downloads(place.parent)  # they are read with it
        return _from_file(place)
    if str(path) == "gpt2":
        return gpt2()
    raise LuthierError(f"there is no tokenizer {path}: give {TAKES}")


def _check_downloads(folder: Path) -> None:
    for name in FILES:
        check_download(folder / name)


def _from_folder(folder: Path) -> Tokenizer:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return _from_file(folder / name)
    for vocabulary, merges in BYTE_LEVEL_FILES:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            settings = settings_of(folder)
            kind = settings.get("tokenizer_class")
            if kind not in (*BYTE_LEVEL_CLASSES, *QWEN2_CLASSES):
                raise LuthierError(
                    f"{folder / vocabulary} belongs to a {kind}, whose rules these files do not "
                    "hold: give a folder with its tokenizer.json"
                )
            prefix = bool(settings.get("add_prefix_space"))
            tokenizer = byte_level(folder / vocabulary, folder / merges, add_prefix_space=prefix)
            if kind in QWEN2_CLASSES:
                words = words_of("qwen2")
                tokenizer.backend.normalizer, tokenizer.backend.pre_tokenizer = words.normalizer, words.pre_tokenizer
                tokenizer = Tokenizer(tokenizer.backend, eos=END_OF_TEXT, pad=END_OF_TEXT)
            return with_settings(tokenizer, folder)
    raise LuthierError(f"{folder} contains no tokenizer: give {TAKES}")


def _from_file(path: Path) -> Tokenizer:
    if path.name in {name for names in BYTE_LEVEL_FILES for name in names}:
        return _from_folder(path.parent)
    if path.suffix == ".json":
        tokenizer = _read_json(path)
    elif is_tiktoken(read_bytes(path)):
        tokenizer = read_tiktoken(path)
    else:
        tokenizer = read_sentencepiece(path, _begin(path.parent) if path.stem == "tokenizer" else "own")
    return with_settings(tokenizer, path.parent) if path.stem == "tokenizer" else tokenizer


def _read_json(path: Path) -> Tokenizer:
    content = read_text(path)
    try:
        state = json.loads(content)
        check(state)
        return Tokenizer(Backend.from_str(hardened(state, content)))
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    except BaseException as error:
        if not is_backends(error):
            raise
        raise LuthierError(f"{path} is not a tokenizer.json: {error}") from None


def _begin(folder: Path) -> Begin:
    """Whether a leading space is added, from the files beside a `tokenizer.model`: by `transformers`' rules if they are
    Hugging Face's, otherwise (alone or in a folder of Meta's) by SentencePiece's.
    """
    settings = settings_of(folder)
    kind = str(settings.get("tokenizer_class") or "LlamaTokenizer").removesuffix("Fast")
    said = {key: settings[key] for key in ("legacy", "add_prefix_space") if settings.get(key) is not None}
    if wrong := [key for key, value in said.items() if not isinstance(value, bool)]:
        raise LuthierError(f"{folder / CONFIG}: {wrong[0]} must be true or false, it is {said[wrong[0]]!r:.80}")
    if said.get("add_prefix_space") is False:
        return "never"
    beside = any((folder / name).is_file() for name in (CONFIG, ADDED, ROLES))
    if not said and (kind not in LLAMA_CLASSES or not beside):
        return "own"
    return "always" if said.get("legacy") else "first"
