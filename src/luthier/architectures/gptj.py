"""GPT-J (Wang and Komatsuzaki, 2021): parallel attention and feed-forward after one norm, a bias on the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.architectures import config_json
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.settings import (
    Choice,
    CustomSetting,
    Ignored,
    Reading,
    Setting,
    SettingList,
    WriteOnlyField,
    count,
    flag,
    positive,
    probability,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import PairsToHalves, Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.blocks import ParallelBlock
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward
from luthier.model.rope import partial_rope
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a GPT-J model. The defaults are 6B."""

    vocab_size: int = 50_400
    """Entries of the vocabulary."""
    context_length: int = 2048
    """Tokens."""
    dim: int = 4096
    """Width of the residual stream."""
    n_layers: int = 28
    """Blocks."""
    n_heads: int = 16
    """Heads."""
    hidden_dim: int | None = None
    """Width of the feed-forward; 4 dim unless given."""
    rotary_dim: int = 64
    """Dimensions of a head that RoPE rotates, the first ones."""
    exact_gelu: bool = False
    """Exact GELU instead of the tanh approximation."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A GPT-J small enough to train on a CPU."""
    rotated = dim // n_heads // 4
    return Config(vocab_size, context_length, dim, n_layers, n_heads, rotary_dim=rotated, tie_embeddings=True)


SIZES = {
    "gptj-6b": Config(),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gptj-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "gptj-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "gptj-mini": small_config(4096, context_length=256, dim=384, n_layers=7, n_heads=6),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        output=nn.Linear(config.dim, config.vocab_size),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    attention = Attention(
        config.dim,
        config.n_heads,
        qk_steps=(partial_rope(config.dim // config.n_heads, config.rotary_dim, 10_000.0),),
        dropout=config.dropout,
    )
    feed_forward = ExactGELUFeedForward if config.exact_gelu else FeedForward
    return ParallelBlock(
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        attention,
        None,
        feed_forward(config.dim, config.hidden_dim or 4 * config.dim),
        config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers)."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


BLOCK, THEIRS = "blocks.{layer}.", "transformer.h.{layer}."


def weight_and_bias(external: str, internal: str) -> list[Rule]:
    """The rules of a module's weight and bias."""
    return [Rule(f"{external}.{kind}", f"{internal}.{kind}") for kind in ("weight", "bias")]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' GPTJForCausalLM, whose rotary pairs are adjacent dimensions."""
    rotated = PairsToHalves((config.n_heads,), rotated=config.rotary_dim)
    attention = THEIRS + "attn."
    block = [
        *weight_and_bias(THEIRS + "ln_1", BLOCK + "attention_norm"),
        Rule(attention + "q_proj.weight", BLOCK + "attention.query.weight", rotated),
        Rule(attention + "k_proj.weight", BLOCK + "attention.key.weight", rotated),
        Rule(attention + "v_proj.weight", BLOCK + "attention.value.weight"),
        Rule(attention + "out_proj.weight", BLOCK + "attention.output.weight"),
        *weight_and_bias(THEIRS + "mlp.fc_in", BLOCK + "feed_forward.up"),
        *weight_and_bias(THEIRS + "mlp.fc_out", BLOCK + "feed_forward.down"),
    ]
    first, output = "transformer.wte.weight", "lm_head.weight"
    rules = [
        Rule(first, "embedding.weight"),
        *each_layer(range(config.n_layers), block),
        *weight_and_bias("transformer.ln_f", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
        Rule("lm_head.bias", "output.bias"),
    ]
    # the causal mask and rotary angles, in older files
    ignored = ("h.*.attn.bias", "h.*.attn.masked_bias", "h.*.attn.embed_positions")
    duplicates = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, ("transformer.", *config_json.WRAPPERS), ignored, duplicates)


def read_width(reading: Reading) -> dict[str, int | None]:
    """The width of the feed-forward, and what rotary positions turn: neither by default what transformers' null is."""
    usual = 4 * reading.fields["dim"]
    width = reading.values.count("n_inner", usual)
    if "rotary_dim" in reading.values.nulls:
        raise LuthierError("config.json: 'rotary_dim' null is not supported: it must be a number of dimensions")
    return {"hidden_dim": None if width == usual else width}


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' GPTJConfig
    Config,
    "GPTJForCausalLM",
    "gptj",
    Setting("vocab_size", "vocab_size", count(), default=50_400),
    Setting("n_positions", "context_length", count(LARGEST_CONTEXT), default=2048),
    Setting("n_embd", "dim", count(), default=4096),
    Setting("n_layer", "n_layers", count(LARGEST_DEPTH), default=28),
    Setting("n_head", "n_heads", count(), default=16),
    CustomSetting(read_width, lambda config: {"n_inner": config.hidden_dim}),
    Setting("rotary_dim", "rotary_dim", count(), default=64),
    Choice(
        "activation_function",
        "exact_gelu",
        {"gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False, "gelu": True},
    ),
    Setting("layer_norm_epsilon", "norm_eps", positive, default=1e-5),
    WriteOnlyField("embd_pdrop", "dropout"),
    WriteOnlyField("attn_pdrop", "dropout"),
    Setting("resid_pdrop", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    Ignored("n_ctx", "summary_*", "scale_attn_weights", "rotary"),  # duplicates n_positions; transformers reads none
)

# llama.cpp has a name for gptj, and computes none
FAMILY = Family(
    "gptj",
    Config,
    SIZES,
    build,
    initialize,
    {"hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"GPTJForCausalLM": "gptj"})},
)
