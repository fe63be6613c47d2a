"""Weight tables that Llama-like models share, by format. In a rule, "{layer}" is the index of a layer."""

from __future__ import annotations

from luthier.architectures.config_json import WRAPPERS
from luthier.architectures.gguf_metadata import EMBEDDING, OUTPUT
from luthier.formats.weight_table import PairsToHalves, Rule, Table

BLOCK = "blocks.{layer}."
HUGGING_FACE = "model.layers.{layer}."
GGUF = "blk.{layer}."
META = "layers.{layer}."
FEED_FORWARD = ("gate", "up", "down")


def parameters_of_linear(bias: bool) -> tuple[str, ...]:
    """Names of a linear layer's parameters."""
    return ("weight", "bias") if bias else ("weight",)


def hugging_face_block(attention: list[Rule], feed_forward: list[Rule]) -> list[Rule]:
    """Rules of a block in `transformers`: two norms, attention and feed-forward."""
    return [
        Rule(HUGGING_FACE + "input_layernorm.weight", BLOCK + "attention_norm.weight"),
        *attention,
        Rule(HUGGING_FACE + "post_attention_layernorm.weight", BLOCK + "feed_forward_norm.weight"),
        *feed_forward,
    ]


def hugging_face_attention(
    n_heads: int, n_kv_heads: int, *, bias: bool = False, interleaved: bool = False
) -> list[Rule]:
    """Rules of attention in `transformers`. interleaved: the rotary pairs there are adjacent dimensions."""
    steps = {
        "query": [PairsToHalves((n_heads,))] if interleaved else [],
        "key": [PairsToHalves((n_kv_heads,))] if interleaved else [],
    }
    return [
        Rule(f"{HUGGING_FACE}self_attn.{a}_proj.{kind}", f"{BLOCK}attention.{b}.{kind}", *steps.get(b, []))
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
        for kind in parameters_of_linear(bias)
    ]


def hugging_face_feed_forward(external: str, internal: str = "feed_forward", *, bias: bool = False) -> list[Rule]:
    """Rules of a SwiGLU in `transformers`. external, internal: its path within a block."""
    return [
        Rule(f"{HUGGING_FACE}{external}.{part}_proj.{kind}", f"{BLOCK}{internal}.{part}.{kind}")
        for part in FEED_FORWARD
        for kind in parameters_of_linear(bias)
    ]


def hugging_face_table(
    layers: list[Rule], tied: bool, prefixes: tuple[str, ...] = ("model.",), ignored: tuple[str, ...] = ()
) -> Table:
    """Weight table of a model in `transformers`. layers: the rules of all blocks. tied: no separate output matrix."""
    first, output = "model.embed_tokens.weight", "lm_head.weight"
    rules = [Rule(first, "embedding.weight"), *layers, Rule("model.norm.weight", "norm.weight")]
    if not tied:
        rules.append(Rule(output, "output.weight"))
    ignored = (*ignored, "*rotary_emb.inv_freq")  # a buffer in older files
    return Table(rules, (*prefixes, *WRAPPERS), ignored, ((output, first),) if tied else ())


def gguf_attention(n_heads: int, n_kv_heads: int, *, bias: bool = False) -> list[Rule]:
    """Rules of attention in llama.cpp, whose rotary pairs are adjacent dimensions."""
    rules = []
    for kind in parameters_of_linear(bias):
        rules += [
            Rule(f"{GGUF}attn_q.{kind}", f"{BLOCK}attention.query.{kind}", PairsToHalves((n_heads,))),
            Rule(f"{GGUF}attn_k.{kind}", f"{BLOCK}attention.key.{kind}", PairsToHalves((n_kv_heads,))),
            Rule(f"{GGUF}attn_v.{kind}", f"{BLOCK}attention.value.{kind}"),
            Rule(f"{GGUF}attn_output.{kind}", f"{BLOCK}attention.output.{kind}"),
        ]
    return rules


def gguf_feed_forward(suffix: str = "", internal: str = "feed_forward", *, bias: bool = False) -> list[Rule]:
    """Rules of a SwiGLU in llama.cpp."""
    return [
        Rule(f"{GGUF}ffn_{part}{suffix}.{kind}", f"{BLOCK}{internal}.{part}.{kind}")
        for kind in parameters_of_linear(bias)
        for part in FEED_FORWARD
    ]


def gguf_table(rope: list[Rule], layers: list[Rule], tied: bool, ignored: tuple[str, ...] = ()) -> Table:
    """Weight table of a model in llama.cpp. rope: the rules of RoPE frequency factors."""
    rules = [Rule(EMBEDDING, "embedding.weight"), *rope, *layers, Rule("output_norm.weight", "norm.weight")]
    if not tied:
        rules.append(Rule(OUTPUT, "output.weight"))
    return Table(rules, ignored=("rope_freqs.weight", *ignored))  # present with factors of 1 in some files


def meta_table(layers: list[Rule], tied: bool, ignored: tuple[str, ...] = ()) -> Table:
    """Weight table of a model in Meta's format. The output matrix is always written."""
    embedding, output = "tok_embeddings.weight", "output.weight"
    ends = [Rule("norm.weight", "norm.weight"), Rule(output, "output.weight")]
    rules = [Rule(embedding, "embedding.weight"), *layers, *ends]
    return Table(rules, ignored=("rope.freqs", *ignored), duplicates=((output, embedding),) if tied else ())
