"""Tiny models of `transformers`, of the families that are near Llama. 20 tokens cross every window of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from random_weights import VOCAB, randomize

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def of(kind: str, **usual: Any) -> Callable[..., Any]:
    """A maker of models of a class, `KindForCausalLM`."""

    def make(**changes: Any) -> Any:
        config = getattr(transformers, f"{kind}Config")(**{**SIZES, **usual, **changes})
        return randomize(getattr(transformers, f"{kind}ForCausalLM")(config))

    return make


mistral, ministral = of("Mistral", sliding_window=None), of("Ministral", sliding_window=6, head_dim=8)
qwen2, qwen3 = of("Qwen2"), of("Qwen3", head_dim=12)
mixtral = of("Mixtral", num_local_experts=4, head_dim=8)
smollm3 = of("SmolLM3", num_hidden_layers=4)
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.7,
    "logits_scaling": 1.5,
}
granite = of("Granite", **MULTIPLIERS)
hybrid = of(
    "GraniteMoeHybrid",
    **MULTIPLIERS,
    num_local_experts=0,
    num_experts_per_tok=0,
    shared_intermediate_size=40,
    position_embedding_type="rope",
    layer_types=["attention"] * 3,
    mamba_n_heads=8,
    mamba_d_head=8,
)
granite_moe = of("GraniteMoe", **MULTIPLIERS, num_local_experts=4)
granite_shared = of("GraniteMoeShared", **MULTIPLIERS, num_local_experts=4, shared_intermediate_size=24)
olmo2, olmo3 = of("Olmo2"), of("Olmo3", num_hidden_layers=4, sliding_window=6)
qwen3_moe = of("Qwen3Moe", head_dim=12, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2)

KIN: dict[str, Callable[[], Any]] = {
    "mistral": lambda: mistral(sliding_window=6, rms_norm_eps=1e-3),
    "mistral without window": lambda: mistral(head_dim=12, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "ministral": lambda: ministral(layer_types=[LOCAL, GLOBAL, LOCAL]),
    "qwen2": qwen2,
    "qwen2, windows, tied": lambda: qwen2(
        use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen2, layer types": lambda: qwen2(
        use_sliding_window=True, sliding_window=5, layer_types=[LOCAL, GLOBAL, LOCAL], rope_parameters=YARN
    ),
    "qwen3": lambda: qwen3(tie_word_embeddings=True),
    "qwen3, yarn, biases": lambda: qwen3(rope_parameters=YARN, attention_bias=True, rms_norm_eps=1e-3),
    "qwen3, windows": lambda: qwen3(use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "qwen3 moe": lambda: qwen3_moe(norm_topk_prob=True),
    "qwen3 moe, weights not normalized": lambda: qwen3_moe(tie_word_embeddings=True, attention_bias=True),
    "qwen3 moe, dense layers": lambda: qwen3_moe(
        decoder_sparse_step=2, norm_topk_prob=True, use_sliding_window=True, sliding_window=5
    ),
    "qwen3 moe, one dense layer": lambda: qwen3_moe(mlp_only_layers=[0], norm_topk_prob=True),
    "mixtral": mixtral,
    "mixtral, window, three experts a token": lambda: mixtral(
        sliding_window=6, num_experts_per_tok=3, tie_word_embeddings=True, head_dim=12
    ),
    "smollm3": lambda: smollm3(rope_parameters={"rope_type": "default", "rope_theta": 5e6}),
    "smollm3, biases, yarn": lambda: smollm3(
        no_rope_layer_interval=2, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rope_parameters=YARN
    ),
    "smollm3, own layers": lambda: smollm3(no_rope_layers=[0, 1, 1, 0]),
    "smollm3, windows": lambda: smollm3(use_sliding_window=True, sliding_window=5, no_rope_layers=[1, 0, 1, 0]),
    "olmo2": lambda: olmo2(rms_norm_eps=1e-3),
    "olmo2, biases, yarn": lambda: olmo2(attention_bias=True, rope_parameters=YARN, tie_word_embeddings=True),
    "olmo3": olmo3,
    "olmo3, yarn on the global layers": lambda: olmo3(rope_scaling={**YARN, "rope_theta": 500_000.0}),
    "granite": lambda: granite(tie_word_embeddings=True),
    "granite, biases, yarn": lambda: granite(attention_bias=True, mlp_bias=True, rope_parameters=YARN),
    "granite 4, dense": lambda: hybrid(tie_word_embeddings=True),
    "granite moe": lambda: granite_moe(attention_bias=True),
    "granite moe, three experts a token": lambda: granite_moe(num_experts_per_tok=3, tie_word_embeddings=True),
    "granite moe, shared expert": granite_shared,
    "arcee": lambda: of("Arcee", head_dim=8)(rope_parameters=YARN),
    "arcee, biases": lambda: of("Arcee", head_dim=8)(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "ernie 4.5": lambda: of("Ernie4_5", head_dim=12)(),
    "helium": lambda: of("Helium", head_dim=8)(rope_parameters={**YARN, "factor": 2.0}),
    "olmo3, layer types": lambda: olmo3(layer_types=[GLOBAL, LOCAL, LOCAL, GLOBAL]),
}
