"""Writes Meta's folders by the layout of Meta's programs, from models of transformers with Llama's classes.

Meta cuts a model for several devices by what each layer is: rows of the matrices that widen, columns of those that
narrow, copies of norms and routers; of the experts the width F.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor

HALVES = ("self_attn.q_proj", "self_attn.k_proj")
LLAMA = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


def neighbors(weight: Tensor, n_heads: int) -> Tensor:
    """Rotary pairs of rows, from halves to neighbors."""
    return weight.view(n_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def llama_weights(peer) -> dict[str, Tensor]:
    """A LlamaForCausalLM under Meta's names."""
    config, found = peer.config, {}
    for name, weight in peer.state_dict().items():
        if any(part in name for part in HALVES):
            weight = neighbors(weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        for theirs, metas in LLAMA.items():
            name = name.replace(theirs, metas)
        found[name.removeprefix("model.")] = weight
    return found


def llama4_weights(peer) -> dict[str, Tensor]:
    """A Llama4ForCausalLM under Meta's names. Its rotary pairs are neighbors in both."""
    weights = {name.removeprefix("model."): weight for name, weight in peer.state_dict().items()}
    found = {
        "tok_embeddings.weight": weights["embed_tokens.weight"],
        "norm.weight": weights["norm.weight"],
        "output.weight": weights["lm_head.weight"],
        "rope.freqs": torch.ones(3),
    }
    for number in range(peer.config.num_hidden_layers):
        ours, attention = f"layers.{number}.", f"layers.{number}.attention."
        part, mlp = f"{ours}self_attn.", f"{ours}feed_forward."
        qkv = [weights[f"{part}{letter}_proj.weight"] for letter in "qkv"]
        found |= {
            f"{attention}wqkv.weight": torch.cat(qkv),
            f"{attention}wqkv.layer_norm_weight": weights[f"{ours}input_layernorm.weight"],
            f"{attention}wqkv._extra_state": io.BytesIO(b"state of a library"),
            f"{attention}wo.weight": weights[f"{part}o_proj.weight"],
            f"{attention}wo._extra_state": io.BytesIO(b"state of a library"),
        }
        norm = weights[f"{ours}post_attention_layernorm.weight"]
        if f"{mlp}router.weight" in weights:
            gate_up, down = weights[f"{mlp}experts.gate_up_proj"], weights[f"{mlp}experts.down_proj"]
            gate, up = gate_up.chunk(2, dim=2)  # (E, D, F) each
            shared = f"{mlp}shared_expert."
            found |= {
                f"{mlp}norm.weight": norm,
                f"{mlp}router_DE": weights[f"{mlp}router.weight"].T,
                f"{mlp}experts.moe_w_in_eD_F": gate.flatten(0, 1),
                f"{mlp}experts.moe_w_swiglu_eD_F": up.flatten(0, 1),
                f"{mlp}experts.moe_w_out_eF_D": down.flatten(0, 1),
                f"{mlp}w_in_shared_FD.weight": weights[f"{shared}gate_proj.weight"],
                f"{mlp}w_swiglu_FD.weight": weights[f"{shared}up_proj.weight"],
                f"{mlp}w_out_shared_DF.weight": weights[f"{shared}down_proj.weight"],
                f"{mlp}global_gate_stats_3E": torch.zeros(3, len(gate)),
            }
        else:
            found |= {
                f"{mlp}mlp.layer_norm_weight": norm,
                f"{mlp}mlp.fc1_weight": torch.cat([weights[f"{mlp}gate_proj.weight"], weights[f"{mlp}up_proj.weight"]]),
                f"{mlp}mlp.fc2_weight": weights[f"{mlp}down_proj.weight"],
            }
    return found


def cut(name: str, weight: Tensor, n: int, config, family: int) -> list[Tensor]:
    """One tensor in n shards. family: 2, 3 or 4."""
    if (
        isinstance(weight, io.BytesIO)
        or "norm" in name
        or any(key in name for key in ("router", "freqs", "gate_stats"))
    ):
        return [weight] * n
    if "wqkv" in name:
        head = config.head_dim
        sizes = [config.num_attention_heads * head, *[config.num_key_value_heads * head] * 2]
        bands = [band.chunk(n) for band in weight.split(sizes)]
        return [torch.cat(parts) for parts in zip(*bands, strict=True)]
    if "fc1_weight" in name:
        bands = [band.chunk(n) for band in weight.chunk(2)]
        return [torch.cat(parts) for parts in zip(*bands, strict=True)]
    if "moe_w_out" in name:
        experts = weight.unflatten(0, (config.num_local_experts, -1))
        return [part.flatten(0, 1) for part in experts.chunk(n, dim=1)]
    columns = ("wo.weight", "w2.weight", "fc2_weight", "w_out_shared", "moe_w_in", "moe_w_swiglu")
    across = any(key in name for key in columns) or (family == 2 and name == "tok_embeddings.weight")
    return list(weight.chunk(n, dim=1 if across else 0))


def params(peer, family: int) -> dict:
    """The params.json of a model. Widths go by `multiple_of` alone, as the published files' multipliers allow."""
    config = peer.config
    rope = config.rope_parameters
    found = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": -1 if family == 2 else config.vocab_size,
        "norm_eps": config.rms_norm_eps,
    }
    if family < 4:
        width = config.intermediate_size
        found |= {"multiple_of": 1, "ffn_dim_multiplier": (width + 0.5) / int(8 * config.hidden_size / 3)}
    else:
        dense = config.intermediate_size_mlp
        multiplier = (dense + 0.5) / int(8 * config.hidden_size / 3)
        # auto_scale_F: the width of the experts is halved, for the shared one beside them
        expansion = 2 * 1.5 * (config.intermediate_size + 1) / multiplier / config.hidden_size
        found |= {"multiple_of": 1, "ffn_dim_multiplier": multiplier, "ffn_exp": expansion}
        found |= {
            "attention_chunk_size": config.attention_chunk_size,
            "nope_layer_interval": 4,
            "use_qk_norm": config.use_qk_norm,
            "attn_temperature_tuning": config.attn_temperature_tuning,
            "floor_scale": float(config.floor_scale),
            "attn_scale": config.attn_scale,
            "moe_args": {
                "num_experts": config.num_local_experts,
                "capacity_factor": 1.0,
                "auto_scale_F": True,
                "top_k": config.num_experts_per_tok,
                "interleave_moe_layer_step": config.interleave_moe_layer_step,
            },
        }
    if family > 2:
        found |= {"rope_theta": rope["rope_theta"], "use_scaled_rope": rope["rope_type"] == "llama3"}
    return found


def write_meta_folder(folder: Path, peer, family: int, n: int, *, nest: bool = False, **changes) -> None:
    """params.json and n shards."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = (llama4_weights if family == 4 else llama_weights)(peer)
    said = params(peer, family) | changes
    (folder / "params.json").write_text(json.dumps({"model": said} if nest else said))
    shards = {name: cut(name, weight, n, peer.config, family) for name, weight in weights.items()}
    for number in range(n):
        state = {
            name: part[number] if isinstance(part[number], io.BytesIO) else part[number].clone()
            for name, part in shards.items()
        }
        torch.save(state, folder / f"consolidated.{number:02}.pth")
