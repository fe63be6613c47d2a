"""Train a tokenizer on text: characters, or byte-level BPE.

In both, token 0 is "<|endoftext|>", which ends a document and pads rows; in a text it is encoded as plain characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteFallback, Fuse, Sequence
from tokenizers.models import BPE

from luthier.errors import LuthierError, UsageError
from luthier.terminal.streams import is_terminal
from luthier.tokenizers.core.bpe_training import Settings, trained
from luthier.tokenizers.core.pieces import BYTE_ALPHABET
from luthier.tokenizers.core.tokenizer import Tokenizer, check
from luthier.tokenizers.formats.gpt2 import END_OF_TEXT, byte_level_of

SMALLEST = len(BYTE_ALPHABET) + 1  # the bytes and the end token
LARGEST = 10_000_000  # the trainer allocates memory for all of them first


def characters(texts: Iterable[str], *, byte_fallback: bool = False) -> Tokenizer:
    """A token for each character (Unicode code point) of the texts, sorted.

    byte_fallback: add 256 byte tokens for characters that the texts do not contain; without them, encoding such a
    character raises a LuthierError.
    """
    alphabet: set[str] = set()
    for text in _checked(texts):
        alphabet.update(text)
    names = [END_OF_TEXT, *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback), *sorted(alphabet)]
    backend = backend_of_characters({name: number for number, name in enumerate(names)}, byte_fallback=byte_fallback)
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer(backend, eos=END_OF_TEXT, pad=END_OF_TEXT)


def backend_of_characters(ids: dict[str, int], *, byte_fallback: bool) -> Backend:
    """A BPE without merges."""
    backend = Backend(BPE(ids, [], byte_fallback=byte_fallback))
    backend.decoder = Sequence([ByteFallback(), Fuse()]) if byte_fallback else Fuse()
    return backend


def train_bpe(texts: Iterable[str], vocab_size: int, *, progress: bool | None = None) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) on texts, with GPT-2's pre-tokenization.

    vocab_size: 256 bytes, the end token and the merges; smaller if too few pairs occur twice. Deterministic. progress:
    show a progress bar on stderr for a long text; None: if that is a terminal. Words over 256 bytes are split for
    training.
    """
    if vocab_size < SMALLEST:
        raise UsageError(f"a vocabulary of {vocab_size} is too small: the bytes and the end token take {SMALLEST}")
    if vocab_size > LARGEST:
        raise UsageError(f"a vocabulary of {vocab_size:,} is too large: at most {LARGEST:,} tokens")
    shown = is_terminal("stderr") if progress is None else progress
    return byte_level_of(trained(_checked(texts), Settings(vocab_size, [END_OF_TEXT], shown)))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, checking that each is valid Unicode, and that there is at least one character."""
    empty = True
    for text in texts:
        check(text)
        empty = empty and not text
        yield text
    if empty:
        raise LuthierError("there is no text to train a tokenizer on")
