"""GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373): parallel attention and feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.settings import (
    Choice,
    CustomSetting,
    Dropped,
    Ignored,
    Setting,
    SettingList,
    WriteOnlyField,
    count,
    flag,
    positive,
    probability,
)
from luthier.formats.weight_table import Rule, Split, SplitByHead, Step, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.blocks import ParallelBlock
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward
from luthier.model.rope import partial_rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a GPT-NeoX model. The defaults are 20B."""

    vocab_size: int = 50_432
    """Entries of the vocabulary."""
    context_length: int = 2048
    """Tokens."""
    dim: int = 6144
    """Width of the residual stream."""
    hidden_dim: int = 24_576
    """Width of the feed-forward."""
    n_layers: int = 44
    """Blocks."""
    n_heads: int = 64
    """Heads."""
    rotary_dim: int | None = 24
    """Dimensions of a head that RoPE rotates, the first ones; all unless given."""
    parallel: bool = True
    """Attention and feed-forward read the same input; otherwise the feed-forward comes after attention."""
    exact_gelu: bool = True
    """Exact GELU instead of the tanh approximation."""
    attention_bias: bool = True
    """Biases on queries, keys, values and the output of attention."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only."""

    @property
    def head_dim(self) -> None:
        """Dim / n_heads, always."""
        return None

    @property
    def n_kv_heads(self) -> int:
        """As many as query heads, always."""
        return self.n_heads


def pythia(dim: int, n_layers: int, n_heads: int, vocab_size: int = 50_304) -> Config:
    """A size of Pythia: a quarter of each head is rotated."""
    return Config(
        vocab_size,
        dim=dim,
        hidden_dim=4 * dim,
        n_layers=n_layers,
        n_heads=n_heads,
        rotary_dim=dim // n_heads // 4,
    )


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> Config:
    """A GPT-NeoX small enough to train on a CPU."""
    return Config(
        vocab_size, context_length, dim, 4 * dim, n_layers, n_heads, rotary_dim=dim // n_heads // 4,
        tie_embeddings=True,
    )  # fmt: skip


SIZES = {
    "pythia-14m": pythia(128, 6, 4),
    "pythia-31m": pythia(256, 6, 8),
    "pythia-70m": pythia(512, 6, 8),
    "pythia-160m": pythia(768, 12, 12),
    "pythia-410m": pythia(1024, 24, 16),
    "pythia-1b": pythia(2048, 16, 8),
    "pythia-1.4b": pythia(2048, 24, 16),
    "pythia-2.8b": pythia(2560, 32, 32),
    "pythia-6.9b": pythia(4096, 32, 32, 50_432),
    "pythia-12b": pythia(5120, 36, 40, 50_688),
    "gptneox-20b": Config(),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gptneox-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4),
    "gptneox-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6),
    "gptneox-mini": small_config(4096, context_length=256, dim=384, n_layers=7, n_heads=6),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    size, scaling = config.dim // config.n_heads, config.rope_scaling
    rotated = config.rotary_dim or size
    magnitude = scaling.magnitude if scaling and rotated == size else 1.0
    attention = Attention(
        config.dim,
        config.n_heads,
        qk_steps=(partial_rope(size, rotated, config.rope_theta, scaling),),
        scale=size**-0.5 * magnitude**2,
        bias=config.attention_bias,
        out_bias=config.attention_bias,
        dropout=config.dropout,
    )
    feed_forward = ExactGELUFeedForward if config.exact_gelu else FeedForward
    return (ParallelBlock if config.parallel else Block)(
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        attention,
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        feed_forward(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers). (Theirs, N(0, 2 / n_layers / sqrt(dim)), is close to
    it.)
    """
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


BLOCK = "blocks.{layer}."


def weight_and_bias(external: str, internal: str) -> list[Rule]:
    """The rules of a module's weight and bias."""
    return [Rule(f"{external}.{kind}", f"{internal}.{kind}") for kind in ("weight", "bias")]


def attention_rules(config: Config, qkv: str, out: str, split: Step) -> list[Rule]:
    """Queries, keys and values in one matrix, and the output. The names: external."""
    rules = []
    for kind in ("weight", "bias") if config.attention_bias else ("weight",):
        internal = tuple(f"{BLOCK}attention.{part}.{kind}" for part in ("query", "key", "value"))
        rules += [Rule(f"{qkv}.{kind}", internal, split), Rule(f"{out}.{kind}", f"{BLOCK}attention.output.{kind}")]
    return rules


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' GPTNeoXForCausalLM, whose rows of q, k and v come head by head."""
    block = "gpt_neox.layers.{layer}."
    by_head = SplitByHead(config.n_heads, (config.dim // config.n_heads,) * 3)
    rules = [
        *weight_and_bias(block + "input_layernorm", BLOCK + "attention_norm"),
        *attention_rules(
            config,
            block + "attention.query_key_value",
            block + "attention.dense",
            by_head,
        ),
        *weight_and_bias(block + "post_attention_layernorm", BLOCK + "feed_forward_norm"),
        *weight_and_bias(block + "mlp.dense_h_to_4h", BLOCK + "feed_forward.up"),
        *weight_and_bias(block + "mlp.dense_4h_to_h", BLOCK + "feed_forward.down"),
    ]
    first, output = "gpt_neox.embed_in.weight", "embed_out.weight"
    rules = [
        Rule(first, "embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *weight_and_bias("gpt_neox.final_layer_norm", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
    ]
    # the causal mask and rotary angles, in older files
    ignored = ("layers.*.attention.bias", "layers.*.attention.masked_bias", "layers.*.attention.rotary_emb.inv_freq")
    duplicates = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, ("gpt_neox.", *config_json.WRAPPERS), ignored, duplicates)


GELUS = {"gelu": True, "gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False}

HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' GPTNeoXConfig
    Config,
    "GPTNeoXForCausalLM",
    "gpt_neox",
    Setting("vocab_size", "vocab_size", count(), default=50_432),
    Setting("hidden_size", "dim", count(), default=6144),
    Setting("intermediate_size", "hidden_dim", count(), default=24_576),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=44),
    Setting("num_attention_heads", "n_heads", count(), default=64),
    Choice("hidden_act", "exact_gelu", GELUS),
    Setting("use_parallel_residual", "parallel", flag, default=True),
    Setting("attention_bias", "attention_bias", flag, default=True),
    Setting("layer_norm_eps", "norm_eps", positive, default=1e-5),
    config_json.PartialRopeSettings(10_000.0, 2048, 0.25, fraction_name="rotary_pct", theta_name="rotary_emb_base"),
    WriteOnlyField("attention_dropout", "dropout"),
    Setting("hidden_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    Ignored("classifier_dropout"),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "gptneox": q, k and v one after the other. Its rotary pairs are
    halves, as in Luthier.
    """
    block = "blk.{layer}."
    rules = [
        *weight_and_bias(block + "attn_norm", BLOCK + "attention_norm"),
        *attention_rules(config, block + "attn_qkv", block + "attn_output", Split((config.dim,) * 3)),
        *weight_and_bias(block + "ffn_norm", BLOCK + "feed_forward_norm"),
        *weight_and_bias(block + "ffn_up", BLOCK + "feed_forward.up"),
        *weight_and_bias(block + "ffn_down", BLOCK + "feed_forward.down"),
    ]
    rotated = config.rotary_dim or config.dim // config.n_heads
    return Table([
        *gguf_metadata.embedding_rules(config.tie_embeddings),
        *gguf_metadata.rope_rules(rotated, config.rope_theta, config.rope_scaling),
        *each_layer(range(config.n_layers), rules),
        *weight_and_bias("output_norm", "norm"),
    ])  # fmt: skip


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gptneox",
    gguf_metadata.VocabSize("gptneox"),
    Setting("gptneox.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("gptneox.embedding_length", "dim", count()),
    Setting("gptneox.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("gptneox"),
    gguf_metadata.Heads("gptneox", partial=True),
    Setting("gptneox.use_parallel_residual", "parallel", flag, default=True),
    Setting("luthier.exact_gelu", "exact_gelu", flag, default=True),
    Setting("gptneox.attention.layer_norm_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("gptneox"),
    Dropped("head_dim", "n_kv_heads"),
    CustomSetting(lambda r: {"attention_bias": gguf_metadata.has_bias(r.weights.checkpoint, "attn_qkv")}),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_OR_EQUAL,
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = []
    if config.exact_gelu:
        found.append("llama.cpp computes GELU in its tanh form, which differs from this model's by up to 0.0005")
    if not config.attention_bias:
        found.append("llama.cpp cannot open a gptneox without biases in attention")
    return found


FAMILY = Family(
    "gptneox",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"GPTNeoXForCausalLM": "gpt_neox"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
