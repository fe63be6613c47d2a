"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata
from luthier.architectures.checked_values import LARGEST_DEPTH, CheckedValues
from luthier.architectures.family import Family, Names
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.settings import (
    Choice,
    Fixed,
    Group,
    Ignored,
    Reading,
    Repeat,
    Setting,
    SettingList,
    Unsupported,
    count,
    flag,
    positive,
    probability,
)
from luthier.errors import LuthierError
from luthier.formats.names import Reshape, Rule, Split, Step, Table, Transpose, ZeroBias, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import ExactGELUFeedForward, FeedForward
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """GPT-2's shape. The defaults are the smallest published model."""

    vocab_size: int = 50_257
    """Entries of the vocabulary."""
    context_length: int = 1024
    """Tokens: the learned positions end there."""
    dim: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Blocks."""
    n_heads: int = 12
    """Attention heads; must divide dim."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norm."""
    qkv_bias: bool = True
    """Biases on queries, keys and values; "LLMs from scratch" leaves them out."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.1
    """Probability, in training only: embeddings, attention weights and both residual branches."""
    embedding_std: float = 0.02
    """Spread of the first embeddings. GPT-2 has 0.02, and 0.01 for positions; another value is that of both."""
    hidden_dim: int | None = None
    """Width of the feed-forward; 4 * dim unless given."""
    exact_gelu: bool = False
    """The exact GELU in the feed-forward; GPT-2 itself has its tanh form."""
    scale_by_layer: bool = False
    """Divide the attention scores of layer i, counted from 1, by i as well."""


SIZES = {
    "gpt2-124m": Config(),
    "gpt2-355m": Config(dim=1024, n_layers=24, n_heads=16),
    "gpt2-774m": Config(dim=1280, n_layers=36, n_heads=20),
    "gpt2-1558m": Config(dim=1600, n_layers=48, n_heads=25),
    # the model of the course and of "LLMs from scratch": untied output, no bias on q, k and v, and first embeddings as
    # large as PyTorch's own: with 0.02, ten epochs on a short story teach it how often each word comes and no more
    "gpt2-course": Config(qkv_bias=False, tie_embeddings=False, embedding_std=1.0),
    # for a CPU: the vocabulary is that of the tokenizer
    "gpt2-nano": Config(vocab_size=512, context_length=128, dim=128, n_layers=4, n_heads=4, dropout=0.0),
    "gpt2-micro": Config(vocab_size=2048, context_length=256, dim=192, n_layers=6, n_heads=6, dropout=0.0),
    "gpt2-mini": Config(vocab_size=4096, context_length=256, dim=384, n_layers=7, n_heads=6, dropout=0.1),
}


def build(config: Config) -> Transformer:
    """Parts joined as GPT-2 joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        nn.LayerNorm(config.dim, eps=config.norm_eps),
        position_embedding=empty_embedding(config.context_length, config.dim),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """Block number `layer`, counted from 0. They are equal but for the scale of scores, where the config says so."""
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
    """GPT-2's: N(0, 0.02), positions N(0, 0.01) as in OpenAI's code, residual outputs / sqrt(2 n_layers)."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
    as_published = config.embedding_std == 0.02
    if not as_published:
        model.embedding.weight.data.normal_(0, config.embedding_std, generator=generator)
    if model.position_embedding is not None:
        spread = 0.01 if as_published else config.embedding_std
        model.position_embedding.weight.data.normal_(0, spread, generator=generator)


OURS = "blocks.{layer}."


def both(theirs: str, ours: str, *steps: Step) -> list[Rule]:
    """A weight, with steps, and a bias."""
    return [Rule(theirs + ".weight", ours + ".weight", *steps), Rule(theirs + ".bias", ours + ".bias")]


def ours_qkv(kind: str) -> tuple[str, ...]:
    """Our names of queries, keys and values, which other formats hold in one tensor. kind: "weight" or "bias"."""
    return tuple(f"{OURS}attention.{part}.{kind}" for part in ("query", "key", "value"))


def read_hidden_dim(reading: Reading, name: str) -> dict[str, int | None]:
    """The width of the feed-forward: None where it is four times the width of the model."""
    usual = 4 * reading.fields["dim"]
    width = reading.values.count(name, usual)
    return {"hidden_dim": None if width == usual else width}


def hugging_face_tensors(config: Config) -> Table:
    """Names of GPT2LMHeadModel: q, k and v in one, matrices (in, out). Files on the hub omit "transformer."."""
    block, thirds = "transformer.h.{layer}.", Split((config.dim,) * 3)
    weight, bias = block + "attn.c_attn.weight", block + "attn.c_attn.bias"
    if config.qkv_bias:
        qkv = [Rule(weight, ours_qkv("weight"), Transpose(), thirds), Rule(bias, ours_qkv("bias"), thirds)]
    else:
        qkv = [Rule((weight, bias), ours_qkv("weight"), ZeroBias(), Transpose(), thirds)]
    rules = [
        *both(block + "ln_1", OURS + "attention_norm"),
        *qkv,
        *both(block + "attn.c_proj", OURS + "attention.output", Transpose()),
        *both(block + "ln_2", OURS + "feed_forward_norm"),
        *both(block + "mlp.c_fc", OURS + "feed_forward.up", Transpose()),
        *both(block + "mlp.c_proj", OURS + "feed_forward.down", Transpose()),
    ]
    first, output = "transformer.wte.weight", "lm_head.weight"
    rules = [
        Rule(first, "embedding.weight"),
        Rule("transformer.wpe.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *both("transformer.ln_f", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
    ]
    ignored = ("h.*.attn.bias", "h.*.attn.masked_bias")  # the causal mask, in older files
    repeats = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, ("transformer.", *config_json.WRAPPERS), ignored, repeats)


# `qkv_bias` and `embedding_std` are ours: transformers' models have biases of zero then. Of the three dropouts that of
# the residual branches is read
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "GPT2LMHeadModel",
    "gpt2",
    Setting("vocab_size", "vocab_size", count()),
    Setting("n_positions", "context_length", count(), missing=1024),
    Setting("n_embd", "dim", count()),
    Setting("n_layer", "n_layers", count(LARGEST_DEPTH)),
    Setting("n_head", "n_heads", count()),
    Setting("layer_norm_epsilon", "norm_eps", positive, missing=1e-5),
    Group(lambda reading: read_hidden_dim(reading, "n_inner"), lambda config: {"n_inner": config.hidden_dim}),
    Choice(
        "activation_function",
        "exact_gelu",
        {"gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False, "gelu": True},
    ),
    Fixed("scale_attn_weights", True, written=False),
    Fixed("add_cross_attention", False, written=False),
    Setting("scale_attn_by_inverse_layer_idx", "scale_by_layer", flag, missing=False),
    Repeat("embd_pdrop", "dropout"),
    Repeat("attn_pdrop", "dropout"),
    Setting("resid_pdrop", "dropout", probability, missing=0.1),
    Setting("qkv_bias", "qkv_bias", flag, missing=True),
    Setting("embedding_std", "embedding_std", positive, missing=0.02),
    Setting("tie_word_embeddings", "tie_embeddings", flag, missing=True),
    Ignored("n_ctx", "reorder_and_upcast_attn", "summary_*"),  # repeats n_positions; scores are float32 in any case
)


def gguf_tensors(config: Config) -> Table:
    """Names of llama.cpp's gpt2: q, k and v in one, always with a bias."""
    block, thirds = "blk.{layer}.", Split((config.dim,) * 3)
    weight, bias = block + "attn_qkv.weight", block + "attn_qkv.bias"
    if config.qkv_bias:
        rules = [Rule(weight, ours_qkv("weight"), thirds), Rule(bias, ours_qkv("bias"), thirds)]
    else:
        rules = [Rule((weight, bias), ours_qkv("weight"), ZeroBias(out=0), thirds)]
    parts = {
        "attn_norm": "attention_norm",
        "attn_output": "attention.output",
        "ffn_norm": "feed_forward_norm",
        "ffn_up": "feed_forward.up",
        "ffn_down": "feed_forward.down",
    }
    for theirs, ours in parts.items():
        rules += both(block + theirs, OURS + ours)
    first, output = gguf_metadata.EMBEDDING, gguf_metadata.OUTPUT
    rules = [
        Rule(first, "embedding.weight"),
        Rule("position_embd.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *both("output_norm", "norm"),
    ]
    if config.tie_embeddings:
        return Table(rules, repeats=((output, first),))
    return Table([*rules, Rule(output, "output.weight")])


def read_tied(reading: Reading) -> dict[str, bool]:
    """Whether the embedding is the output matrix. Older files hold it twice, and are tied as well."""
    checkpoint, first, output = reading.weights.checkpoint, gguf_metadata.EMBEDDING, gguf_metadata.OUTPUT
    shapes = checkpoint.shapes()
    tied = output not in shapes or (
        shapes[output] == shapes.get(first) and checkpoint.tensor(output).equal(checkpoint.tensor(first))
    )
    return {"tie_embeddings": tied}


def check_kv_heads(reading: Reading) -> dict[str, int]:
    """Keys and values have as many heads as queries."""
    reading.values.only("gpt2.attention.head_count_kv", reading.fields["n_heads"])
    return {}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gpt2",
    Unsupported(("exact_gelu", "scale_by_layer"), "GGUF has no setting for {field} of gpt2: write the model as hf"),
    gguf_metadata.VocabSize("gpt2"),
    Setting("gpt2.context_length", "context_length", count()),
    Setting("gpt2.embedding_length", "dim", count()),
    Group(
        lambda reading: read_hidden_dim(reading, "gpt2.feed_forward_length"),
        lambda config: {"gpt2.feed_forward_length": config.hidden_dim or 4 * config.dim},
    ),
    gguf_metadata.Depth("gpt2"),
    Setting("gpt2.attention.head_count", "n_heads", count()),
    Group(check_kv_heads),
    Setting("gpt2.attention.layer_norm_epsilon", "norm_eps", positive),
    Setting("luthier.qkv_bias", "qkv_bias", flag, missing=True),
    Setting("luthier.embedding_std", "embedding_std", positive, missing=0.02),
    Setting("luthier.dropout", "dropout", probability, missing=0.1),
    Group(read_tied),
)


def openai_tensors(config: Config) -> Table:
    """Names of OpenAI's variables. Matrices are (1, in, out), as a convolution of width 1; q, k and v are in one."""
    block, dim = "model/h{layer}/", config.dim
    thirds = Split((dim,) * 3)

    def matrix(rows: int, columns: int) -> list[Step]:
        return [Reshape((1, rows, columns), (rows, columns)), Transpose()]

    def linear(theirs: str, ours: str, rows: int, columns: int) -> list[Rule]:
        return [Rule(f"{theirs}/w", f"{ours}.weight", *matrix(rows, columns)), Rule(f"{theirs}/b", f"{ours}.bias")]

    def norm(theirs: str, ours: str) -> list[Rule]:
        return [Rule(f"{theirs}/g", f"{ours}.weight"), Rule(f"{theirs}/b", f"{ours}.bias")]

    rules = [
        *norm(block + "ln_1", OURS + "attention_norm"),
        Rule(block + "attn/c_attn/w", ours_qkv("weight"), *matrix(dim, 3 * dim), thirds),
        Rule(block + "attn/c_attn/b", ours_qkv("bias"), thirds),
        *linear(block + "attn/c_proj", OURS + "attention.output", dim, dim),
        *norm(block + "ln_2", OURS + "feed_forward_norm"),
        *linear(block + "mlp/c_fc", OURS + "feed_forward.up", dim, 4 * dim),
        *linear(block + "mlp/c_proj", OURS + "feed_forward.down", 4 * dim, dim),
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
    lambda values: None,  # its other settings were never remarked on
)


def book_tensors(config: Config) -> Table:
    """Names of GPTModel. Its matrices are (out, in) and its queries, keys and values apart, as ours."""
    block, qkv = "trf_blocks.{layer}.", (("W_query", "query"), ("W_key", "key"), ("W_value", "value"))
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)

    def norm(theirs: str, ours: str) -> list[Rule]:
        return [Rule(f"{theirs}.scale", f"{ours}.weight"), Rule(f"{theirs}.shift", f"{ours}.bias")]

    rules = [
        *(Rule(f"{block}att.{a}.{kind}", f"{OURS}attention.{b}.{kind}") for a, b in qkv for kind in kinds),
        *both(block + "att.out_proj", OURS + "attention.output"),
        *both(block + "ff.layers.0", OURS + "feed_forward.up"),
        *both(block + "ff.layers.2", OURS + "feed_forward.down"),
        *norm(block + "norm1", OURS + "attention_norm"),
        *norm(block + "norm2", OURS + "feed_forward_norm"),
    ]
    first, output = "tok_emb.weight", "out_head.weight"
    rules = [
        Rule(first, "embedding.weight"),
        Rule("pos_emb.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), rules),
        *norm("final_norm", "norm"),
        *([] if config.tie_embeddings else [Rule(output, "output.weight")]),
    ]
    repeats = ((output, first),) if config.tie_embeddings else ()
    return Table(rules, config_json.WRAPPERS, ("trf_blocks.*.att.mask",), repeats)  # the causal mask


def read_book_shapes(reading: Reading) -> dict[str, Any]:
    """The Config of a GPTModel, from the shapes of its weights.

    They show all but the number of heads: those have 64 dimensions, unless the book's dict of this model, its
    GPT_CONFIG_124M, gives another `n_heads`.
    """
    bare, values = Table([], config_json.WRAPPERS).bare, reading.values
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


BOOK_HEAD_DIM = 64  # of every GPT-2 that was published, and of the book's
BOOK_SETTINGS: SettingList[Config] = SettingList(
    Config,
    (
        Group(read_book_shapes),
        Setting("n_heads", "n_heads", count(), missing=lambda r: max(1, r.fields["dim"] // BOOK_HEAD_DIM)),
        Setting("drop_rate", "dropout", probability, missing=0.1),
    ),
    closes=lambda values: None,  # the rest of the book's dict is in the shapes
)

FAMILY = Family(
    "gpt2",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": Names(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"GPT2LMHeadModel": "gpt2", "GPT2Model": "gpt2"}),
        "gguf": Names(gguf_tensors, GGUF_SETTINGS),
        "openai": Names(openai_tensors, OPENAI_SETTINGS),
        "book": Names(book_tensors, BOOK_SETTINGS),
    },
)
