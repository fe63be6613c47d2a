"""A tokenizer of bytes, and small models with fresh weights: logits with clear winners, so that texts are not noise."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.model.transformer import Transformer


class ByteStream:
    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self.decoder.decode(bytes([token])) if token < 256 else ""

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


class ByteTokenizer:
    """Ids 0 to 255 are bytes, 256 ends a text."""

    vocab_size = 257
    bos_id: int | None = None
    adds_bos = False
    eos_id: int | None = 256
    eos_ids: tuple[int, ...] = (256,)
    special_tokens: Mapping[str, int] = MappingProxyType({"<end>": 256})

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        first = [self.bos_id] if bos and self.bos_id is not None else []
        return first + list(text.encode())

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """special: "<end>" is the token of that name."""
        parts = [text.split("<end>") if special else [text] for text in texts]
        return [[i for part in row for i in (256, *part.encode())][1:] for row in parts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def stream(self) -> ByteStream:
        return ByteStream()


CONFIGS = {
    "gpt2": gpt2.Config(257, 48, 32, 2, 4, dropout=0.1),
    "llama": llama.Config(257, 48, 32, 64, 2, 4, 2),
    "llama4": llama4.Config(
        257, 48, 32, 32, 64, 4, 4, 2, None, n_experts=4, moe_every=2, attention_chunk=8, temperature_floor=8.0
    ),
}


def small_model(config: registry.Config, seed: int = 0) -> Transformer:
    """Fresh weights, the matrices eight times as large as usual: a trained model is not unsure of everything."""
    model = registry.build(config, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return model
