"""nanochat's GPT (Karpathy, 2025), as it was published first and as transformers has it: norms without weights, squared
ReLU, QK norm and capped logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures import config_json, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, CheckedValues
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import initialize_normal
from luthier.architectures.llama_like_names import BLOCK, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    OptionalSetting,
    Setting,
    SettingList,
    count,
    flag,
    positive,
    probability,
    same_as,
)
from luthier.formats.weight_table import Rule, SwapHalves, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SquaredReLUFeedForward
from luthier.model.norm import UnitNorm
from luthier.model.output import CappedLinear
from luthier.model.rope import UnitQKNorm, rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.scale import NormedEmbedding
from luthier.model.transformer import Block, Transformer

SOFTCAP = 15.0


@dataclass(frozen=True)
class Config:
    """Configuration of a nanochat model. The defaults are d20."""

    vocab_size: int = 65_536
    """Entries of the vocabulary."""
    context_length: int = 2048
    """Tokens."""
    dim: int = 1280
    """Width of the residual stream."""
    hidden_dim: int = 5120
    """Width of the feed-forward."""
    n_layers: int = 20
    """Blocks."""
    n_heads: int = 10
    """Query heads."""
    n_kv_heads: int = 10
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    logit_softcap: float | None = SOFTCAP
    """Logits become softcap * tanh(logit / softcap); None: not capped."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. nanochat itself uses none."""


def depth(n_layers: int) -> Config:
    """A size of nanochat: all follows from the depth."""
    return Config(
        dim=64 * n_layers,
        hidden_dim=256 * n_layers,
        n_layers=n_layers,
        n_heads=n_layers // 2,
        n_kv_heads=n_layers // 2,
    )


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A nanochat small enough to train on a CPU."""
    return Config(vocab_size, context_length, dim, 4 * dim, n_layers, n_heads, n_heads)


SIZES = {
    "nanochat-d20": depth(20),
    "nanochat-d26": depth(26),
    "nanochat-d32": depth(32),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "nanochat-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "nanochat-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "nanochat-mini": small_config(4096, context_length=256, dim=320, n_layers=7, n_heads=5),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    cap = config.logit_softcap
    return Transformer(
        NormedEmbedding(torch.empty(config.vocab_size, config.dim), config.norm_eps),
        [build_block(config) for _ in range(config.n_layers)],
        UnitNorm(config.norm_eps),
        output=None if cap is None else CappedLinear(config.dim, config.vocab_size, cap),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    size = config.dim // config.n_heads
    attention = Attention(  # the norm of queries and keys undoes what a scaling would multiply them by
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        qk_steps=(rope(size, config.rope_theta, config.rope_scaling), UnitQKNorm(config.norm_eps)),
        dropout=config.dropout,
    )
    feed_forward = SquaredReLUFeedForward(config.dim, config.hidden_dim, bias=False)
    return Block(UnitNorm(config.norm_eps), attention, UnitNorm(config.norm_eps), feed_forward, config.dropout)


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), embeddings N(0, 1).

    (nanochat's own residual outputs and logits begin at 0, which its optimizer needs and AdamW does not.)
    """
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
    if not config.tie_embeddings:
        model.embedding.weight.data.normal_(0, 1.0, generator=generator)


def block_rules(config: Config, external: str, names: dict[str, str]) -> list[Rule]:
    """A block. names: external ones of attention's query, key, value and output, and of up and down."""
    turned = {"query": SwapHalves((config.n_heads,)), "key": SwapHalves((config.n_kv_heads,))}
    rules = []
    for part, name in names.items():
        where = "feed_forward" if part in ("up", "down") else "attention"
        steps = [turned[part]] if part in turned else []
        rules.append(Rule(f"{external}{name}.weight", f"{BLOCK}{where}.{part}.weight", *steps))
    return rules


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of NanoChatForCausalLM."""
    names = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}
    names |= {"output": "self_attn.o_proj", "up": "mlp.fc1", "down": "mlp.fc2"}
    layers = each_layer(range(config.n_layers), block_rules(config, HUGGING_FACE, names))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings, norm=False)


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' NanoChatConfig
    Config,
    "NanoChatForCausalLM",
    "nanochat",
    Setting("vocab_size", "vocab_size", count(), default=50_304),
    Setting("hidden_size", "dim", count(), default=768),
    Setting("intermediate_size", "hidden_dim", count(), default=8192),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=12),
    Setting("num_attention_heads", "n_heads", count(), default=6),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=same_as("n_heads")),
    OptionalSetting("final_logit_softcapping", "logit_softcap", positive, default=SOFTCAP),
    Fixed("hidden_act", "relu2"),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-6),
    config_json.RopeSettings(theta=10_000.0, context=2048),
    Fixed("attention_bias", False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
)


def checkpoint_tensors(config: Config) -> Table:
    """Weight table of nanochat's own checkpoints."""
    names = {"query": "attn.c_q", "key": "attn.c_k", "value": "attn.c_v", "output": "attn.c_proj"}
    names |= {"up": "mlp.c_fc", "down": "mlp.c_proj"}
    rules = [
        Rule("transformer.wte.weight", "embedding.weight"),
        *each_layer(range(config.n_layers), block_rules(config, "transformer.h.{layer}.", names)),
        Rule("lm_head.weight", "output.weight"),
    ]
    return Table(rules, config_json.WRAPPERS)


CHECKPOINT_SETTINGS: SettingList[Config] = SettingList(
    Config,
    (
        Setting("vocab_size", "vocab_size", count()),
        Setting("sequence_len", "context_length", count(LARGEST_CONTEXT), default=1024),
        Setting("n_embd", "dim", count()),
        Setting("n_layer", "n_layers", count(LARGEST_DEPTH)),
        Setting("n_head", "n_heads", count()),
        Setting("n_kv_head", "n_kv_heads", count(), default=same_as("n_heads")),
        CustomSetting(lambda reading: {"hidden_dim": 4 * reading.fields["dim"]}),
        Fixed("window_pattern", "L", written=False),
    ),
    lambda values: CheckedValues(values, "the meta file"),
)

FAMILY = Family(
    "nanochat",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"NanoChatForCausalLM": "nanochat"}),
        "nanochat": FormatSpec(checkpoint_tensors, CHECKPOINT_SETTINGS),
    },
)
