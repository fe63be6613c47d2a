"""Tiny models of bytes with random weights, and with the special tokens of ChatML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from luthier.architectures import llama, registry
from luthier.language_model import LanguageModel
from luthier.tokenizers.core.tokenizer import Tokenizer

TURNS = ("<|im_start|>", "<|im_end|>")


def byte_tokenizer(special: tuple[str, ...] = TURNS, **roles: Any) -> Tokenizer:
    """A token for each byte, and the special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate([*alphabet, *special])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return Tokenizer(backend, **roles)


def tiny(tokenizer: Tokenizer, context_length: int = 128, scale: float = 8.0) -> LanguageModel:
    """A model with fresh weights, the matrices larger than usual: a trained model is not unsure of everything."""
    config = llama.Config(tokenizer.vocab_size, context_length, 32, 64, 2, 4, 2)
    model = registry.build(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    return LanguageModel(model.eval(), tokenizer, config)


def save_tiny(folder: Path, tokenizer: Tokenizer, context_length: int = 128) -> str:
    tiny(tokenizer, context_length).save(folder)
    return str(folder)
