"""Small tokenizers with the face of Luthier's own: byte-level BPE, SentencePiece's way, and single characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WORDS = "the quick brown fox jumps over a lazy dog while 23 engineers don't sleep; éléphants, naïve café 日本語 中文。"
LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Backed:
    """A `tokenizers.Tokenizer` with what preparing text needs."""

    encodes_words = False

    def __init__(self, backend: Tokenizer, eos: str | None = "<|endoftext|>") -> None:
        self.backend = backend
        backend.encode_special_tokens = True  # written in a text, they are plain text
        self.eos_id = backend.token_to_id(eos) if eos else None
        self.vocab_size = backend.get_vocab_size()
        self.fingerprint = "f" * 64

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_arrays(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        self.backend.save(str(folder / "tokenizer.json"))


def byte_level(pattern: str | None) -> Backed:
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    backend.pre_tokenizer = (
        split if pattern is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), split])
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [WORDS] * 3,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return Backed(backend)


def llama2_way() -> Backed:
    """Puts a space mark before the text and has no idea of words: the hardest to cut."""
    vocabulary = {"<unk>": 0, "</s>": 1}
    vocabulary |= {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    for piece in ("▁", *"etaoinshrdlu", "th", "the", "▁the", "in", "an", "▁a", "er", "on", "▁t", "▁▁"):
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("▁", "the"),
        ("i", "n"),
        ("a", "n"),
        ("▁", "a"),
        ("e", "r"),
        ("o", "n"),
        ("▁", "t"),
        ("▁", "▁"),
    ]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["</s>"])
    return Backed(backend, "</s>")


def characters(alphabet: str) -> Backed:
    vocabulary = {character: i for i, character in enumerate(dict.fromkeys(alphabet))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    return Backed(backend, None)
