"""Names of tensors that Llama and its relatives share, by format. In rules, "{layer}" is the number of a layer."""

from __future__ import annotations

from luthier.architectures.config_json import WRAPPERS
from luthier.architectures.gguf_metadata import EMBEDDING, OUTPUT
from luthier.formats.names import PairsToHalves, Rule, Table

OURS = "blocks.{layer}."
HUGGING_FACE = "model.layers.{layer}."
GGUF = "blk.{layer}."
META = "layers.{layer}."
FEED_FORWARD = ("gate", "up", "down")


def kinds(bias: bool) -> tuple[str, ...]:
    """The tensors of a linear layer."""
    return ("weight", "bias") if bias else ("weight",)


def hugging_face_block(attention: list[Rule], feed_forward: list[Rule]) -> list[Rule]:
    """A block, in transformers: its two norms, attention and feed-forward."""
    return [
        Rule(HUGGING_FACE + "input_layernorm.weight", OURS + "attention_norm.weight"),
        *attention,
        Rule(HUGGING_FACE + "post_attention_layernorm.weight", OURS + "feed_forward_norm.weight"),
        *feed_forward,
    ]


def hugging_face_attention(
    n_heads: int, n_kv_heads: int, *, bias: bool = False, interleaved: bool = False
) -> list[Rule]:
    """Attention, in transformers. interleaved: rotary pairs are neighbors there."""
    steps = {
        "query": [PairsToHalves((n_heads,))] if interleaved else [],
        "key": [PairsToHalves((n_kv_heads,))] if interleaved else [],
    }
    return [
        Rule(f"{HUGGING_FACE}self_attn.{a}_proj.{kind}", f"{OURS}attention.{b}.{kind}", *steps.get(b, []))
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
        for kind in kinds(bias)
    ]


def hugging_face_feed_forward(theirs: str, ours: str = "feed_forward", *, bias: bool = False) -> list[Rule]:
    """A SwiGLU, in transformers. theirs, ours: its path in a block."""
    return [
        Rule(f"{HUGGING_FACE}{theirs}.{part}_proj.{kind}", f"{OURS}{ours}.{part}.{kind}")
        for part in FEED_FORWARD
        for kind in kinds(bias)
    ]


def hugging_face_table(
    layers: list[Rule], tied: bool, prefixes: tuple[str, ...] = ("model.",), ignored: tuple[str, ...] = ()
) -> Table:
    """A whole model, in transformers. layers: the rules of all blocks. tied: the output matrix is the embedding."""
    first, output = "model.embed_tokens.weight", "lm_head.weight"
    rules = [Rule(first, "embedding.weight"), *layers, Rule("model.norm.weight", "norm.weight")]
    if not tied:
        rules.append(Rule(output, "output.weight"))
    ignored = (*ignored, "*rotary_emb.inv_freq")  # in older files
    return Table(rules, (*prefixes, *WRAPPERS), ignored, ((output, first),) if tied else ())


def gguf_attention(n_heads: int, n_kv_heads: int, *, bias: bool = False) -> list[Rule]:
    """Attention, in llama.cpp, whose rotary pairs are neighbors."""
    rules = []
    for kind in kinds(bias):
        rules += [
            Rule(f"{GGUF}attn_q.{kind}", f"{OURS}attention.query.{kind}", PairsToHalves((n_heads,))),
            Rule(f"{GGUF}attn_k.{kind}", f"{OURS}attention.key.{kind}", PairsToHalves((n_kv_heads,))),
            Rule(f"{GGUF}attn_v.{kind}", f"{OURS}attention.value.{kind}"),
            Rule(f"{GGUF}attn_output.{kind}", f"{OURS}attention.output.{kind}"),
        ]
    return rules


def gguf_feed_forward(suffix: str = "", ours: str = "feed_forward", *, bias: bool = False) -> list[Rule]:
    """A SwiGLU, in llama.cpp."""
    return [
        Rule(f"{GGUF}ffn_{part}{suffix}.{kind}", f"{OURS}{ours}.{part}.{kind}")
        for kind in kinds(bias)
        for part in FEED_FORWARD
    ]


def gguf_table(rope: list[Rule], layers: list[Rule], tied: bool, ignored: tuple[str, ...] = ()) -> Table:
    """A whole model, in llama.cpp. rope: the rules of rotary factors."""
    rules = [Rule(EMBEDDING, "embedding.weight"), *rope, *layers, Rule("output_norm.weight", "norm.weight")]
    if not tied:
        rules.append(Rule(OUTPUT, "output.weight"))
    return Table(rules, ignored=("rope_freqs.weight", *ignored))  # where its factors are all 1


def meta_table(layers: list[Rule], tied: bool, ignored: tuple[str, ...] = ()) -> Table:
    """A whole model, in Meta's files. The output matrix is always written."""
    embedding, output = "tok_embeddings.weight", "output.weight"
    ends = [Rule("norm.weight", "norm.weight"), Rule(output, "output.weight")]
    rules = [Rule(embedding, "embedding.weight"), *layers, *ends]
    return Table(rules, ignored=("rope.freqs", *ignored), repeats=((output, embedding),) if tied else ())
