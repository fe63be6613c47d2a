"""The config.json of published models of families further from Llama."""

from __future__ import annotations

from typing import Any

from luthier.architectures.phi3 import LONG

EVERY = {"initializer_range": 0.02, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2}
EVERY |= {"torch_dtype": "bfloat16", "transformers_version": "4.40.0"}
GEMMA = {
    **EVERY,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "cache_implementation": "hybrid",
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
}
GEMMA3 = {
    **GEMMA,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 262_144,
    "max_position_embeddings": 32_768,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "rope_theta": 1_000_000,
    "rope_local_base_freq": 10_000,
    "rope_scaling": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
DEEPSEEK = {
    **EVERY,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"},
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "hidden_act": "silu",
    "kv_lora_rank": 512,
    "max_position_embeddings": 163_840,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
}
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
LOCAL, GLOBAL = "sliding_attention", "full_attention"

PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma2-2b": {
        **GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256_000,
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "max_position_embeddings": 8192, "sliding_window": 4096, "rope_theta": 10_000.0,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
    },
    "gemma3-1b": {
        **GEMMA3, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "sliding_window_pattern": 6,
    },
    "gemma3-270m": {
        **GEMMA3, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "_sliding_window_pattern": 6,
        "layer_types": ([LOCAL] * 5 + [GLOBAL]) * 3, "use_bidirectional_attention": False,
    },
    "gemma3-4b": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "boi_token_index": 255_999,
        "image_token_index": 262_144, "mm_tokens_per_image": 256, "vision_config": {"hidden_size": 1152},
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
    },
    "phi3-3.8b": {
        **EVERY, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 32_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "sliding_window": 2047,
        "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10_000.0, "attention_bias": False,
        "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_act": "silu", "pad_token_id": 32_000,
        "tie_word_embeddings": False,
    },
    "phi4-mini-3.8b": {
        **EVERY, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 200_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "sliding_window": 262_144,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "partial_rotary_factor": 0.75, "attention_bias": False,
        "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_act": "silu", "mlp_bias": False,
        "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "tie_word_embeddings": True,
        "rope_scaling": {"long_factor": list(LONG), "short_factor": [1.0] * 48, "type": "longrope"},
    },
    "pythia-160m": {
        **EVERY, "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 50_304,
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "rotary_emb_base": 10_000,
        "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True,
    },
    "stablelm2-1.6b": {
        **EVERY, "architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "vocab_size": 100_352,
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 32,
        "num_key_value_heads": 32, "hidden_act": "silu", "layer_norm_eps": 1e-5, "max_position_embeddings": 4096,
        "partial_rotary_factor": 0.25, "rope_theta": 10_000, "tie_word_embeddings": False, "use_qkv_bias": True,
    },
    "gptj-6b": {
        **EVERY, "architectures": ["GPTJForCausalLM"], "model_type": "gptj", "vocab_size": 50_400, "n_embd": 4096,
        "n_layer": 28, "n_head": 16, "n_inner": None, "n_positions": 2048, "rotary_dim": 64, "rotary": True,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
        "resid_pdrop": 0.0, "scale_attn_weights": True, "summary_type": "cls_index", "tie_word_embeddings": False,
        "gradient_checkpointing": False, "tokenizer_class": "GPT2Tokenizer",
    },
    "gpt-oss-20b": {
        **EVERY, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 201_088,
        "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4,
        "experts_per_token": 4, "sliding_window": 128, "layer_types": [LOCAL, GLOBAL] * 12, "swiglu_limit": 7.0,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "initial_context_length": 4096, "max_position_embeddings": 131_072,
        "rope_theta": 150_000, "attention_bias": True, "attention_dropout": 0.0, "tie_word_embeddings": False,
        "output_router_logits": False, "router_aux_loss_coef": 0.9, "pad_token_id": 199_999,
        "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn"], "quant_method": "mxfp4"},
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": False,
        },
    },
    "deepseek-v2-lite": {
        **DEEPSEEK, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102_400,
        "hidden_size": 2048, "intermediate_size": 10_944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
        "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
        "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "deepseek-v2": {
        **DEEPSEEK, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102_400,
        "hidden_size": 5120, "intermediate_size": 12_288, "moe_intermediate_size": 1536, "num_hidden_layers": 60,
        "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "n_routed_experts": 160,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 8, "topk_group": 3,
        "topk_method": "group_limited_greedy", "scoring_func": "softmax", "norm_topk_prob": False,
        "routed_scaling_factor": 16.0, "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "deepseek-v3": {  # but for its quantization
        **DEEPSEEK, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 129_280,
        "hidden_size": 7168, "intermediate_size": 18_432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "n_routed_experts": 256,
        "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 1, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "nanochat-d32": {
        **EVERY, "architectures": ["NanoChatForCausalLM"], "model_type": "nanochat", "vocab_size": 65_536,
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 2048, "hidden_act": "relu2", "attention_bias": False,
        "attention_dropout": 0.0, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "final_logit_softcapping": 15.0,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
