"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata
from luthier.architectures.checked_values import LARGEST_DEPTH, CheckedValues
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.settings import (
    Choice,
    CustomSetting,
    Fixed,
    Ignored,
    Reading,
    Setting,
    SettingList,
    Unsupported,
    WriteOnlyField,
    count,
    flag,
    positive,
    probability,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import Reshape, Rule, Split, Step, Table, Transpose, ZeroBias, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a GPT-2 model. The defaults are the smallest published model."""

    vocab_size: int = 50_257
    """Entries of the vocabulary."""
    context_length: int = 1024
    """Tokens: the number of learned position embeddings."""
    dim: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Blocks."""
    n_heads: int = 12
    """Attention heads; must divide dim."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    qkv_bias: bool = True
    """Biases on queries, keys and values; the book "LLMs from scratch" has none."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.1
    """Probability, in training only: embeddings, attention weights and both residual branches."""
    embedding_std: float = 0.02
    """Initial standard deviation of embeddings. With GPT-2's 0.02, positions have 0.01; other values are for both."""
    hidden_dim: int | None = None
    """Width of the feed-forward; 4 * dim unless given."""
    exact_gelu: bool = False
    """Exact GELU in the feed-forward instead of GPT-2's tanh approximation."""
    scale_by_layer: bool = False
    """Also divide the attention scores of layer i, counted from 1, by i."""


SIZES = {
    "gpt2-124m": Config(),
    "gpt2-355m": Config(dim=1024, n_layers=24, n_heads=16),
    "gpt2-774m": Config(dim=1280, n_layers=36, n_heads=20),
    "gpt2-1558m": Config(dim=1600, n_layers=48, n_heads=25),
    # the model of the course and of "LLMs from scratch": untied output, no bias on q, k and v, and PyTorch's own
    # initialization of embeddings: with 0.02, ten epochs on a short story teach little more than word frequencies
    "gpt2-course": Config(qkv_bias=False, tie_embeddings=False, embedding_std=1.0),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gpt2-nano": Config(vocab_size=512, context_length=128, dim=128, n_layers=4, n_heads=4, dropout=0.0),
    "gpt2-micro": Config(vocab_size=2048, context_length=256, dim=192, n_layers=6, n_heads=6, dropout=0.0),
    "gpt2-mini": Config(vocab_size=4096, context_length=256, dim=384, n_layers=7, n_heads=6, dropout=0.1),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        position_embedding=empty_embedding(config.context_length, config.dim),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0. Blocks differ only with `scale_by_layer`."""
    feed_forward = ExactGELUFeedForward if config.exact_gelu else FeedForward
    scale = (config.dim // config.n_heads) ** -0.5 / (layer + 1) if config.scale_by_layer else None
    return Block(
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        Attention(config.dim, config.n_heads, scale=scale, bias=config.qkv_bias, out_bias=True, dropout=config.dropout),
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        feed_forward(config.dim, config.hidden_dim or 4 * config.dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), positions N(0, 0.01), residual outputs divided by sqrt(2 n_layers), as in OpenAI's code."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
    as_published = config.embedding_std == 0.02
    if not as_published:
        model.embedding.weight.data.normal_(0, config.embedding_std, generator=generator)
    if model.position_embedding is not None:
        std = 0.01 if as_published else config.embedding_std
        model.position_embedding.weight.data.normal_(0, std, generator=generator)


BLOCK = "blocks.{layer}."


def weight_and_bias(external: str, internal: str, *steps: Step) -> list[Rule]:
    """The rules of a module's weight, with conversion steps, and of its bias."""
    return [Rule(external + ".weight", internal + ".weight", *steps), Rule(external + ".bias", internal + ".bias")]


def qkv_names(kind: str) -> tuple[str, ...]:
    """Luthier's names of queries, keys and values, which other formats fuse into one tensor. kind: weight or bias."""
    return tuple(f"{BLOCK}attention.{part}.{kind}" for part in ("query", "key", "value"))


def read_hidden_dim(reading: Reading, name: str) -> dict[str, int | None]:
    """The width of the feed-forward; None where it is 4 * dim."""
    default = 4 * reading.fields["dim"]
    width = reading.values.count(name, default)
    return {"hidden_dim": None if width == default else width}


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of GPT2LMHeadModel: q, k, v fused, matrices (in, out). Files on the hub omit "transformer."."""
    block, thirds = "transformer.h.{layer}.", Split((config.dim,) * 3)
    weight, bias = block + "attn.c_attn.weight", block + "attn.c_attn.bias"
    if config.qkv_bias:
        qkv = [Rule(weight, qkv_names("weight"), Transpose(), thirds), Rule(bias, qkv_names("bias"), thirds)]
    else:
        qkv = [Rule((weight, bias), qkv_names("weight"), ZeroBias(), Transpose(), thirds)]
    rules = [
        *weight_and_bias(block + "ln_1", BLOCK + "attention_norm"),
        *qkv,
        *weight_and_bias(block + "attn.c_proj", BLOCK + "attention.output", Transpose()),
        *weight_and_bias(block + "ln_2", BLOCK + "feed_forward_norm"),
        *weight_and_bias(block + "mlp.c_fc", BLOCK + "feed_forward.up", Transpose()),
        *weight_and_bias(block + "mlp.c_proj", BLOCK + "feed_forward.down", Transpose()),
    ]
    first, output = "transformer.wte.weight", "lm_head.weight"
    rules = [
        Rule(first, "embedding.weight"),
        Rule("transformer.wpe.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *weight_and_bias("transformer.ln_f", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
    ]
    ignored = ("h.*.attn.bias", "h.*.attn.masked_bias")  # causal masks in older files
    duplicates = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, ("transformer.", *config_json.WRAPPERS), ignored, duplicates)


# `qkv_bias` and `embedding_std` are Luthier's own settings: transformers' models then have biases
# of zero. Of the three dropouts, the residual branches' is read
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "GPT2LMHeadModel",
    "gpt2",
    Setting("vocab_size", "vocab_size", count()),
    Setting("n_positions", "context_length", count(), default=1024),
    Setting("n_embd", "dim", count()),
    Setting("n_layer", "n_layers", count(LARGEST_DEPTH)),
    Setting("n_head", "n_heads", count()),
    Setting("layer_norm_epsilon", "norm_eps", positive, default=1e-5),
    CustomSetting(lambda reading: read_hidden_dim(reading, "n_inner"), lambda config: {"n_inner": config.hidden_dim}),
    Choice(
        "activation_function",
        "exact_gelu",
        {"gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False, "gelu": True},
    ),
    Fixed("scale_attn_weights", True, written=False),
    Fixed("add_cross_attention", False, written=False),
    Setting("scale_attn_by_inverse_layer_idx", "scale_by_layer", flag, default=False),
    WriteOnlyField("embd_pdrop", "dropout"),
    WriteOnlyField("attn_pdrop", "dropout"),
    Setting("resid_pdrop", "dropout", probability, default=0.1),
    Setting("qkv_bias", "qkv_bias", flag, default=True),
    Setting("embedding_std", "embedding_std", positive, default=0.02),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=True),
    Ignored("n_ctx", "reorder_and_upcast_attn", "summary_*"),  # n_ctx equals n_positions; scores are always float32
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "gpt2": q, k, v fused, always with a bias."""
    block, thirds = "blk.{layer}.", Split((config.dim,) * 3)
    weight, bias = block + "attn_qkv.weight", block + "attn_qkv.bias"
    if config.qkv_bias:
        rules = [Rule(weight, qkv_names("weight"), thirds), Rule(bias, qkv_names("bias"), thirds)]
    else:
        rules = [Rule((weight, bias), qkv_names("weight"), ZeroBias(out=0), thirds)]
    parts = {
        "attn_norm": "attention_norm",
        "attn_output": "attention.output",
        "ffn_norm": "feed_forward_norm",
        "ffn_up": "feed_forward.up",
        "ffn_down": "feed_forward.down",
    }
    for external, internal in parts.items():
        rules += weight_and_bias(block + external, BLOCK + internal)
    first, output = gguf_metadata.EMBEDDING, gguf_metadata.OUTPUT
    rules = [
        Rule(first, "embedding.weight"),
        Rule("position_embd.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *weight_and_bias("output_norm", "norm"),
    ]
    if config.tie_embeddings:
        return Table(rules, duplicates=((output, first),))
    return Table([*rules, Rule(output, "output.weight")])


def check_kv_heads(reading: Reading) -> dict[str, int]:
    """Check that keys and values have as many heads as queries."""
    reading.values.require_one_of("gpt2.attention.head_count_kv", reading.fields["n_heads"])
    return {}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gpt2",
    Unsupported(("exact_gelu", "scale_by_layer"), "GGUF has no setting for {field} of gpt2: write the model as hf"),
    gguf_metadata.VocabSize("gpt2"),
    Setting("gpt2.context_length", "context_length", count()),
    Setting("gpt2.embedding_length", "dim", count()),
    CustomSetting(
        lambda reading: read_hidden_dim(reading, "gpt2.feed_forward_length"),
        lambda config: {"gpt2.feed_forward_length": config.hidden_dim or 4 * config.dim},
    ),
    gguf_metadata.LayerCount("gpt2"),
    Setting("gpt2.attention.head_count", "n_heads", count()),
    CustomSetting(check_kv_heads),
    Setting("gpt2.attention.layer_norm_epsilon", "norm_eps", positive),
    Setting("luthier.qkv_bias", "qkv_bias", flag, default=True),
    Setting("luthier.embedding_std", "embedding_std", positive, default=0.02),
    Setting("luthier.dropout", "dropout", probability, default=0.1),
    gguf_metadata.TIED_OR_EQUAL,
)


def openai_tensors(config: Config) -> Table:
    """Weight table of OpenAI's TensorFlow variables. Matrices are (1, in, out), as for convolutions; q, k, v fused."""
    block, dim = "model/h{layer}/", config.dim
    thirds = Split((dim,) * 3)

    def matrix(rows: int, columns: int) -> list[Step]:
        return [Reshape((1, rows, columns), (rows, columns)), Transpose()]

    def linear(external: str, internal: str, rows: int, columns: int) -> list[Rule]:
        return [
            Rule(f"{external}/w", f"{internal}.weight", *matrix(rows, columns)),
            Rule(f"{external}/b", f"{internal}.bias"),
        ]

    def norm(external: str, internal: str) -> list[Rule]:
        return [Rule(f"{external}/g", f"{internal}.weight"), Rule(f"{external}/b", f"{internal}.bias")]

    rules = [
        *norm(block + "ln_1", BLOCK + "attention_norm"),
        Rule(block + "attn/c_attn/w", qkv_names("weight"), *matrix(dim, 3 * dim), thirds),
        Rule(block + "attn/c_attn/b", qkv_names("bias"), thirds),
        *linear(block + "attn/c_proj", BLOCK + "attention.output", dim, dim),
        *norm(block + "ln_2", BLOCK + "feed_forward_norm"),
        *linear(block + "mlp/c_fc", BLOCK + "feed_forward.up", dim, 4 * dim),
        *linear(block + "mlp/c_proj", BLOCK + "feed_forward.down", 4 * dim, dim),
    ]
    rules = [
        Rule("model/wte", "embedding.weight"),
        Rule("model/wpe", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *norm("model/ln_f", "norm"),
    ]
    return Table(rules, ignored=("global_step",))


OPENAI_SETTINGS: SettingList[Config] = SettingList(
    Config,
    (
        Setting("n_vocab", "vocab_size", count()),
        Setting("n_ctx", "context_length", count()),
        Setting("n_embd", "dim", count()),
        Setting("n_head", "n_heads", count()),
        Setting("n_layer", "n_layers", count(LARGEST_DEPTH)),
    ),
    lambda values: CheckedValues(values, "hparams.json"),
    lambda values: None,  # no warning about other settings
)


def book_tensors(config: Config) -> Table:
    """Weight table of the book's GPTModel. Layouts are Luthier's: matrices (out, in), separate q, k and v."""
    block, qkv = "trf_blocks.{layer}.", (("W_query", "query"), ("W_key", "key"), ("W_value", "value"))
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)

    def norm(external: str, internal: str) -> list[Rule]:
        return [Rule(f"{external}.scale", f"{internal}.weight"), Rule(f"{external}.shift", f"{internal}.bias")]

    rules = [
        *(Rule(f"{block}att.{a}.{kind}", f"{BLOCK}attention.{b}.{kind}") for a, b in qkv for kind in kinds),
        *weight_and_bias(block + "att.out_proj", BLOCK + "attention.output"),
        *weight_and_bias(block + "ff.layers.0", BLOCK + "feed_forward.up"),
        *weight_and_bias(block + "ff.layers.2", BLOCK + "feed_forward.down"),
        *norm(block + "norm1", BLOCK + "attention_norm"),
        *norm(block + "norm2", BLOCK + "feed_forward_norm"),
    ]
    first, output = "tok_emb.weight", "out_head.weight"
    rules = [
        Rule(first, "embedding.weight"),
        Rule("pos_emb.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *norm("final_norm", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
    ]
    duplicates = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, config_json.WRAPPERS, ("trf_blocks.*.att.mask",), duplicates)  # the causal mask


def read_book_shapes(reading: Reading) -> dict[str, Any]:
    """The Config of the book's GPTModel, inferred from the shapes of its weights.

    The number of heads is not in the shapes: head_dim is 64 unless the book's config dict (GPT_CONFIG_124M) beside the
    weights has `n_heads`.
    """
    bare, values = Table([], config_json.WRAPPERS).strip_prefixes, reading.values
    sizes = {bare(name): shape for name, shape in reading.weights.checkpoint.shapes().items()}
    tokens, positions = sizes.get("tok_emb.weight", ()), sizes.get("pos_emb.weight", ())
    if len(tokens) != 2 or len(positions) != 2:
        raise LuthierError(
            'no GPTModel of "Build a Large Language Model (From Scratch)": it has no tok_emb.weight or pos_emb.weight'
        )
    layers = [int(found[1]) for name in sizes if (found := re.match(r"trf_blocks\.(\d{1,4})\.", name))]
    if not 0 < len(set(layers)) == max(layers, default=-1) + 1 <= LARGEST_DEPTH:
        raise LuthierError("no GPTModel: its 'trf_blocks' are not numbered from 0 on")
    dim = tokens[1]
    if dim % BOOK_HEAD_DIM and "n_heads" not in values.values:
        raise LuthierError(
            f"the weights do not say how many heads there are, and {dim} dimensions are no multiple of "
            f'{BOOK_HEAD_DIM}: write {{"n_heads": ...}} into {values.source} beside them'
        )
    return {
        "vocab_size": tokens[0],
        "context_length": positions[0],
        "dim": dim,
        "n_layers": len(set(layers)),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in sizes,
        "tie_embeddings": reading.weights.tied,
    }


BOOK_HEAD_DIM = 64  # of every published GPT-2, and of the book's
BOOK_SETTINGS: SettingList[Config] = SettingList(
    Config,
    (
        CustomSetting(read_book_shapes),
        Setting("n_heads", "n_heads", count(), default=lambda r: max(1, r.fields["dim"] // BOOK_HEAD_DIM)),
        Setting("drop_rate", "dropout", probability, default=0.1),
    ),
    finish=lambda values: None,  # the rest of the book's dict follows from the shapes
)

FAMILY = Family(
    "gpt2",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"GPT2LMHeadModel": "gpt2", "GPT2Model": "gpt2"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
        "openai": FormatSpec(openai_tensors, OPENAI_SETTINGS),
        "book": FormatSpec(book_tensors, BOOK_SETTINGS),
    },
)
