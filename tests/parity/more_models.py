"""Tiny models of `transformers`, of families further from Llama. 20 tokens cross every window of theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from random_weights import VOCAB, randomize

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
GEMMA = {**SHAPE, "head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 10}
WIDE = {**SHAPE, "num_attention_heads": 2, "num_key_value_heads": 1}  # heads of 16: a quarter of them is 4
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.5],
    "long_factor": [1.0, 2.0, 3.5],
    "partial_rotary_factor": 0.75,
}
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def of(kind: str, usual: dict[str, Any], **more: Any) -> Callable[..., Any]:
    """A maker of models of a class, `KindForCausalLM`."""

    def make(**changes: Any) -> Any:
        of_text = "Text" if kind == "Gemma3" else ""
        config = getattr(transformers, f"{kind}{of_text}Config")(**{**usual, **more, **changes})
        return randomize(getattr(transformers, f"{kind}ForCausalLM")(config))

    return make


# fused kernels cannot cap scores
gemma2 = of("Gemma2", GEMMA, attn_implementation="eager")
gemma3 = of("Gemma3", GEMMA)
phi3 = of("Phi3", SHAPE, eos_token_id=2)
neox = of("GPTNeoX", {name: value for name, value in WIDE.items() if name != "num_key_value_heads"})
stablelm = of("StableLm", WIDE)
GPTJ = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 8}
gptj = of("GPTJ", GPTJ, bos_token_id=1, eos_token_id=2)

OSS = {**SHAPE, "head_dim": 8, "num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24}
gpt_oss = of("GptOss", OSS, sliding_window=6, attn_implementation="eager")
DEEPSEEK = {
    **SHAPE, "num_key_value_heads": 4, "moe_intermediate_size": 24, "q_lora_rank": 20, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 8, "num_experts_per_tok": 3,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
}  # fmt: skip
nanochat = of("NanoChat", SHAPE)
deepseek_v2 = of("DeepseekV2", DEEPSEEK)


def deepseek_v3(**changes: Any) -> Any:
    """With biases on the choice of experts that are not 0."""
    model = of("DeepseekV3", DEEPSEEK)(**changes)
    generator = torch.Generator().manual_seed(5)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.3, generator=generator)
    return model


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
}
MSCALES = {"mscale": 0.707, "mscale_all_dim": 0.707}
GEMMA3_ROPES = {
    GLOBAL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
    LOCAL: {"rope_type": "default", "rope_theta": 77.0},
}
TWO = {"num_hidden_layers": 2}
MORE = {
    "gemma 2": gemma2,
    "gemma 2, no caps, own layers": partial(
        gemma2, attn_logit_softcapping=None, final_logit_softcapping=None, layer_types=[GLOBAL, GLOBAL, LOCAL]
    ),
    "gemma 3": partial(gemma3, layer_types=[LOCAL, LOCAL, GLOBAL]),
    "gemma 3, linear, untied, capped": partial(
        gemma3, rope_parameters=GEMMA3_ROPES, layer_types=[GLOBAL, LOCAL, LOCAL], tie_word_embeddings=False,
        final_logit_softcapping=2.0,
    ),
    "phi 3, window": partial(phi3, sliding_window=6),
    "phi 4 mini": partial(
        phi3, rope_parameters=LONGROPE, original_max_position_embeddings=16, tie_word_embeddings=True
    ),
    "gpt-neox": partial(neox, **TWO),
    "gpt-neox, one after the other": partial(
        neox, **TWO, use_parallel_residual=False, hidden_act="gelu_new", rotary_pct=1.0, rotary_emb_base=333.0,
        attention_bias=False, tie_word_embeddings=True,
    ),
    "stablelm": partial(stablelm, **TWO, use_qkv_bias=True),
    "stablelm 2 12b": partial(stablelm, **TWO, qk_layernorm=True, use_parallel_residual=True),
    "stablelm, tied": partial(
        stablelm, **TWO, qk_layernorm=True, partial_rotary_factor=0.5, tie_word_embeddings=True
    ),
    "gpt-oss": partial(gpt_oss, rope_parameters={**YARN, "truncate": False}),
    "gpt-oss, own layers, tied": partial(
        gpt_oss, rope_parameters={"rope_type": "default", "rope_theta": 333.0}, layer_types=[GLOBAL, LOCAL, LOCAL],
        swiglu_alpha=1.2, swiglu_limit=0.5, tie_word_embeddings=True,
    ),
    "deepseek-v2-lite": partial(deepseek_v2, q_lora_rank=None, rope_parameters={**YARN, **MSCALES}),
    "deepseek-v2": partial(deepseek_v2, topk_method="group_limited_greedy", routed_scaling_factor=2.0),
    "deepseek-v3": partial(deepseek_v3, rope_parameters={**YARN, **MSCALES}, routed_scaling_factor=1.3),
    "deepseek-v3, no groups, other mscale": partial(
        deepseek_v3, rope_parameters={**YARN, **MSCALES, "mscale": 1.0}, q_lora_rank=None, norm_topk_prob=False,
        n_group=1, topk_group=1, first_k_dense_replace=0, tie_word_embeddings=True,
    ),
    "nanochat": nanochat,
    "nanochat, no cap, tied": partial(
        nanochat, final_logit_softcapping=None, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 333.0},
    ),
    "gpt-j": gptj,
    "gpt-j, whole heads": partial(gptj, rotary_dim=16, n_inner=40, activation_function="gelu"),
}  # fmt: skip

LLAMA_PARTS = {"attention_norm": "input_layernorm", "attention": "self_attn", "feed_forward": "mlp", "": ""}
GEMMA_PARTS = {
    **LLAMA_PARTS,
    "attention_post": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post": "post_feedforward_layernorm",
}
PARTS = {
    "gemma2": GEMMA_PARTS,
    "gemma3_text": GEMMA_PARTS,
    "phi3": LLAMA_PARTS,
    "stablelm": LLAMA_PARTS,
    "nanochat": LLAMA_PARTS,
    "gpt_oss": LLAMA_PARTS,
    "deepseek_v2": LLAMA_PARTS,
    "deepseek_v3": LLAMA_PARTS,
    "gpt_neox": {**LLAMA_PARTS, "attention": "attention", "feed_forward_norm": "post_attention_layernorm"},
    "gptj": {"attention_norm": "ln_1", "attention": "attn", "feed_forward": "mlp", "": ""},
}
BLOCKS = {"gpt_neox": "gpt_neox.layers", "gptj": "transformer.h", "gpt2": "transformer.h"}  # else model.layers
