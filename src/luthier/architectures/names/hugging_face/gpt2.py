"""What GPT-2's weights and settings are called in Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.gpt2 import Config
from luthier.architectures.names.hugging_face.config_json import WRAPPERS, mention_others
from luthier.architectures.names.settings import LARGEST_DEPTH, ConfigJson
from luthier.formats.names import Rule, Split, Table, Transpose, ZeroBias, each_layer

CLASSES = {"GPT2LMHeadModel": "gpt2", "GPT2Model": "gpt2"}  # class -> model_type
# n_ctx: n_positions once more. reorder_and_upcast_attn: scores in float32, as here in any case
PASSED_OVER = ("n_ctx", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn")

PREFIXES = ("transformer.", *WRAPPERS)


def table(config: Config) -> Table:
    """Names of GPT2LMHeadModel: q, k and v in one, matrices (in, out). Files on the hub omit "transformer."."""
    ours, theirs = "blocks.{layer}.", "transformer.h.{layer}."
    qkv = ("query", "key", "value")
    qkv_weights = tuple(f"{ours}attention.{part}.weight" for part in qkv)
    qkv_biases = tuple(f"{ours}attention.{part}.bias" for part in qkv)
    thirds = Split((config.dim,) * 3)
    if config.qkv_bias:
        attention = [
            Rule(theirs + "attn.c_attn.weight", qkv_weights, Transpose(), thirds),
            Rule(theirs + "attn.c_attn.bias", qkv_biases, thirds),
        ]
    else:
        both = (theirs + "attn.c_attn.weight", theirs + "attn.c_attn.bias")
        attention = [Rule(both, qkv_weights, ZeroBias(), Transpose(), thirds)]
    block = [
        Rule(theirs + "ln_1.weight", ours + "attention_norm.weight"),
        Rule(theirs + "ln_1.bias", ours + "attention_norm.bias"),
        *attention,
        Rule(theirs + "attn.c_proj.weight", ours + "attention.output.weight", Transpose()),
        Rule(theirs + "attn.c_proj.bias", ours + "attention.output.bias"),
        Rule(theirs + "ln_2.weight", ours + "feed_forward_norm.weight"),
        Rule(theirs + "ln_2.bias", ours + "feed_forward_norm.bias"),
        Rule(theirs + "mlp.c_fc.weight", ours + "feed_forward.up.weight", Transpose()),
        Rule(theirs + "mlp.c_fc.bias", ours + "feed_forward.up.bias"),
        Rule(theirs + "mlp.c_proj.weight", ours + "feed_forward.down.weight", Transpose()),
        Rule(theirs + "mlp.c_proj.bias", ours + "feed_forward.down.bias"),
    ]
    rules = [
        Rule("transformer.wte.weight", "embedding.weight"),
        Rule("transformer.wpe.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), block),
        Rule("transformer.ln_f.weight", "norm.weight"),
        Rule("transformer.ln_f.bias", "norm.bias"),
    ]
    ignored = ("h.*.attn.bias", "h.*.attn.masked_bias")  # the causal mask, in files of old
    if config.tie_embeddings:
        repeats = (("lm_head.weight", "transformer.wte.weight"),)
        return Table(rules, PREFIXES, ignored, repeats)
    return Table([*rules, Rule("lm_head.weight", "output.weight")], PREFIXES, ignored)


def write_config(config: Config) -> dict[str, Any]:
    """The config.json of a GPT2LMHeadModel. `qkv_bias` and `embedding_std` are ours; there, biases are then zeros."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "layer_norm_epsilon": config.norm_eps,
        "n_inner": config.hidden_dim,
        "activation_function": "gelu" if config.exact_gelu else "gelu_new",
        "scale_attn_by_inverse_layer_idx": config.scale_by_layer,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "qkv_bias": config.qkv_bias,
        "embedding_std": config.embedding_std,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Of its three dropouts we take that of the residual branches."""
    settings = ConfigJson(values)
    dim = settings.count("n_embd")
    width = settings.count("n_inner", 4 * dim)
    settings.only("activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu")
    settings.only("scale_attn_weights", True)
    settings.only("add_cross_attention", False)
    config = Config(
        vocab_size=settings.count("vocab_size"),
        context_length=settings.count("n_positions", 1024),
        dim=dim,
        n_layers=settings.count("n_layer", most=LARGEST_DEPTH),
        n_heads=settings.count("n_head"),
        norm_eps=settings.number("layer_norm_epsilon", 1e-5),
        qkv_bias=settings.flag("qkv_bias", True),
        tie_embeddings=settings.flag("tie_word_embeddings", True),
        dropout=settings.share("resid_pdrop", 0.1),
        embedding_std=settings.number("embedding_std", 0.02),
        hidden_dim=None if width == 4 * dim else width,
        exact_gelu=settings.value("activation_function") == "gelu",
        scale_by_layer=settings.flag("scale_attn_by_inverse_layer_idx", False),
    )
    mention_others(settings, *PASSED_OVER, *(name for name in settings.values if name.startswith("summary_")))
    return config
