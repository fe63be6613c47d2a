"""Tiny models of `transformers` with random weights, and their twins in Luthier by way of the name tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers
from llama_kin import KIN
from more_models import MORE
from random_weights import VOCAB, randomize
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from luthier.model.transformer import Transformer
from luthier.model_files import hugging_face
from luthier.model_files.weights import read_weights

SCALING_31 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,  # within 16 tokens no pair makes the usual 32 turns
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.1, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 3.5, 8.0],
}
# each past the length that it was trained on: the tests read 20 tokens
SCALINGS = {
    "linear": LINEAR,
    "dynamic": DYNAMIC,
    "yarn": YARN,
    "yarn, ramp between pairs": {**YARN, "truncate": False, "beta_slow": 0.5, "attention_factor": 1.3},
    "yarn, attention factor from two": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.4},
    "longrope": LONGROPE,
    "longrope, own attention factor": {**LONGROPE, "attention_factor": 0.8},
    "linear, factor 1": {**LINEAR, "factor": 1.0},
    "dynamic, factor 1": {**DYNAMIC, "factor": 1.0},
    "yarn, factor 1": {**YARN, "factor": 1.0},
    "llama3, factor 1": {**SCALING_31, "factor": 1.0},
}
SCALING_SCOUT = {**SCALING_31, "rope_theta": 500_000.0, "factor": 16.0, "high_freq_factor": 1.0}

transformers.logging.disable_progress_bar()


def gpt2(**changes: Any) -> Any:
    settings = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3, **changes}
    return randomize(transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)))


def llama(**changes: Any) -> Any:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    return randomize(transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)))


LLAMA4 = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 24,
    "intermediate_size_mlp": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
    "attention_chunk_size": 6,
    "floor_scale": 3,
    "pad_token_id": None,
}


def llama4(**changes: Any) -> Any:
    return randomize(transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**{**LLAMA4, **changes})))


def scaled(rope: dict[str, Any], make: Any = llama) -> Any:
    # the context of "dynamic" is the one trained on
    return make(rope_parameters=dict(rope), max_position_embeddings=16 if rope["rope_type"] == "dynamic" else 64)


MODELS = {
    "gpt2": gpt2,
    "gpt2 untied": lambda: gpt2(tie_word_embeddings=False),
    "llama 2": lambda: llama(num_key_value_heads=4, rms_norm_eps=1e-3),
    "llama 3": lambda: llama(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
    "llama 3.1": lambda: llama(rope_parameters=SCALING_31),
    "llama 3.2, tied": lambda: llama(rope_parameters=SCALING_31, tie_word_embeddings=True),
    "llama with wide heads": lambda: llama(head_dim=12),
    "llama with biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama with biases on attention": lambda: llama(attention_bias=True),
    "gpt2, narrow": lambda: gpt2(n_inner=40),
    "gpt2, exact gelu": lambda: gpt2(activation_function="gelu"),
    "gpt2, scores by layer": lambda: gpt2(scale_attn_by_inverse_layer_idx=True, n_layer=3),
    **{f"llama, {name}": partial(scaled, rope) for name, rope in SCALINGS.items()},
    "llama 4, yarn": lambda: scaled({**YARN, "attention_factor": 1.7}, llama4),
    "llama 4, yarn without norm": lambda: llama4(rope_parameters={**YARN, "attention_factor": 1.7}, use_qk_norm=False),
    "llama 4, dynamic": lambda: scaled(DYNAMIC, llama4),
    "llama 4": llama4,
    "llama 4 scout": lambda: llama4(rope_parameters=SCALING_SCOUT),
    "llama 4 maverick": lambda: llama4(interleave_moe_layer_step=2, use_qk_norm=False, num_local_experts=8),
    "llama 4, two experts a token": lambda: llama4(num_experts_per_tok=2),
    "llama 4, own layers": lambda: llama4(moe_layers=[0, 3], no_rope_layers=[0, 1, 1, 0], tie_word_embeddings=True),
    "llama 4, constant temperature": lambda: llama4(attn_temperature_tuning=False),
    **KIN,
    **MORE,
}


class Memory:
    """A checkpoint in memory (`names.Checkpoint`)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    def tensor(self, name: str) -> Tensor:
        return self.weights[name]


def twin(peer: Any) -> Transformer:
    """Luthier's model of the same weights."""
    config = hugging_face.read_config({**peer.config.to_dict(), "architectures": [type(peer).__name__]})
    table = hugging_face.format_spec(config).tensors(config)
    weights = revert_weight_conversion(peer, peer.state_dict())  # named as in a file
    model = read_weights(Memory(weights), table, config, torch.device("cpu"), None)
    return model.eval()


def tokens(rows: int = 2, length: int = 20) -> Tensor:
    """(rows, length) ids. 20 tokens cross three borders of Llama 4's chunks of 6."""
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(2))
