"""Qwen3-MoE (arXiv 2505.09388): Qwen3's attention, and experts weighted by a softmax on all or some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, qwen3, windows
from luthier.architectures.checked_values import LARGEST_EXPERTS
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, HUGGING_FACE
from luthier.architectures.settings import CustomSetting, Fixed, Reading, Setting, SettingList, count, flag
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.experts import Experts
from luthier.model.feed_forward import SwiGLU
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SoftmaxRouter
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Qwen3-MoE model. The defaults are Qwen3 30B-A3B, but for the width of its heads."""

    vocab_size: int = 151_936
    """Entries of the vocabulary."""
    context_length: int = 40_960
    """Tokens."""
    dim: int = 2048
    """Width of the residual stream."""
    hidden_dim: int = 768
    """Width of each expert."""
    dense_hidden_dim: int = 6144
    """Width of the feed-forward on layers without experts."""
    n_layers: int = 48
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 4
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 128
    """Experts of an MoE layer."""
    experts_per_token: int = 8
    """Experts that each token is routed to."""
    normalize_weights: bool = True
    """Normalize the weights of the chosen experts to sum to 1."""
    moe_every: int = 1
    """Every n-th layer has experts (2: layers 1, 3, 5, ... counted from 0)."""
    dense_layers: tuple[int, ...] | None = None
    """Layers with a dense feed-forward despite moe_every, counted from 0."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 1_000_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Qwen itself uses none."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention despite the window, counted from 0; none unless given."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""

    def is_moe(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has experts."""
        return (layer + 1) % self.moe_every == 0 and layer not in (self.dense_layers or ())


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A Qwen3-MoE small enough to train on a CPU: narrow experts, two per token."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim,
        dense_hidden_dim=8 * dim // 3,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        n_experts=n_experts,
        experts_per_token=2,
        rope_theta=10_000.0,
        tie_embeddings=True,
    )


SIZES = {
    "qwen3-30b-a3b": Config(head_dim=128),
    "qwen3-235b-a22b": Config(
        dim=4096, hidden_dim=1536, dense_hidden_dim=12_288, n_layers=94, n_heads=64, head_dim=128
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "qwen3moe-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=4),
    "qwen3moe-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "qwen3moe-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=8),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0: experts, or one feed-forward."""
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        qwen3.build_attention(config, layer),
        RMSNorm(config.dim, config.norm_eps),
        build_moe(config) if config.is_moe(layer) else SwiGLU(config.dim, config.dense_hidden_dim),
        dropout=config.dropout,
    )


def build_moe(config: Config) -> MoE:
    """Routed experts, weighted at their outputs."""
    over: Literal["chosen", "all"] = "chosen" if config.normalize_weights else "all"
    return MoE(
        SoftmaxRouter(config.dim, config.n_experts, config.experts_per_token, over=over),
        Experts(config.n_experts, config.dim, config.hidden_dim),
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def block_rules(config: Config, block: list[Rule], mixture: list[Rule], dense: list[Rule]) -> list[Rule]:
    """The rules of all layers: those of every block, and those of its MoE or dense feed-forward."""
    kinds = ((layer, mixture if config.is_moe(layer) else dense) for layer in range(config.n_layers))
    return [rule for layer, feed_forward in kinds for rule in each_layer([layer], block + feed_forward)]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Qwen3MoeForCausalLM."""
    mixture = [
        Rule(HUGGING_FACE + "mlp.gate.weight", BLOCK + "feed_forward.router.weight"),
        *llama_like_names.hugging_face_experts(config.n_experts, config.hidden_dim, "mlp.experts"),
    ]
    block = llama_like_names.hugging_face_block(qwen3.hugging_face_attention(config), [])
    layers = block_rules(config, block, mixture, llama_like_names.hugging_face_feed_forward("mlp"))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


def read_dense_layers(reading: Reading) -> dict[str, Any]:
    """`mlp_only_layers`: those that moe_every would give experts."""
    layers, moe_every = reading.values.integers("mlp_only_layers") or [], reading.fields["moe_every"]
    dense = {layer for layer in layers if 0 <= layer < reading.fields["n_layers"] and (layer + 1) % moe_every == 0}
    return {"dense_layers": tuple(sorted(dense)) or None}


def local_experts(reading: Reading) -> Any:
    """The number of experts by its other name in `transformers`."""
    return reading.values.value("num_local_experts", 128)


# in files of models that were made with other programs
WITHOUT_CHOICE = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}
# defaults: those of transformers' Qwen3MoeConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    *llama_like_settings.hugging_face(eps=1e-6, context=32_768, kv_heads=4, width="moe_intermediate_size"),
    Setting("intermediate_size", "dense_hidden_dim", count()),
    Setting("num_experts", "n_experts", count(LARGEST_EXPERTS), default=local_experts),
    Setting("num_experts_per_tok", "experts_per_token", count(), default=8),
    Setting("norm_topk_prob", "normalize_weights", flag, default=False),
    Setting("decoder_sparse_step", "moe_every", count(), default=1),
    CustomSetting(read_dense_layers, lambda config: {"mlp_only_layers": list(config.dense_layers or ())}),
    Setting("attention_bias", "attention_bias", flag, default=False),
    windows.SwitchedWindows(by_layer=False),
    *(Fixed(name, value, written=False) for name, value in WITHOUT_CHOICE.items()),
    llama_like_settings.OF_TRAINING,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "qwen3moe"."""
    mixture, dense = llama_like_names.gguf_experts(config.hidden_dim), llama_like_names.gguf_feed_forward()
    layers = block_rules(config, qwen3.gguf_attention(config), mixture, dense)
    return llama_like_names.gguf_table([], layers, config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "qwen3moe",
    *llama_like_settings.gguf("qwen3moe", width="expert_feed_forward_length", factors=False),
    Setting("qwen3moe.feed_forward_length", "dense_hidden_dim", count(), default=1),
    *llama_like_settings.gguf_experts("qwen3moe"),
    Setting("luthier.normalize_weights", "normalize_weights", flag, default=True),
    Setting("luthier.moe_every", "moe_every", count(), default=1),
    gguf_metadata.LayerIndices("luthier.dense_layers", "dense_layers"),
    windows.LuthierWindows(),
    CustomSetting(qwen3.read_bias),
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = windows.caveats(config)
    if not all(map(config.is_moe, range(config.n_layers))):
        found.append("llama.cpp cannot open it: not every layer has experts")
    if not config.normalize_weights:
        found.append("llama.cpp lets the weights of the chosen experts sum to 1, this model does not")
    return found


FAMILY = Family(
    "qwen3moe",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"Qwen3MoeForCausalLM": "qwen3_moe", "Qwen3MoeModel": "qwen3_moe"},
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
