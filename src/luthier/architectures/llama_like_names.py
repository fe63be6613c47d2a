"""Weight tables that Llama-like models share, by format. In a rule, "{layer}" is the index of a layer."""

from __future__ import annotations

from luthier.architectures.config_json import WRAPPERS
from luthier.architectures.gguf_metadata import EMBEDDING, OUTPUT
from luthier.formats.weight_table import Join, PairsToHalves, Rule, Stack, Table, Transpose

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
    n_heads: int, n_kv_heads: int, *, bias: bool = False, out_bias: bool | None = None, interleaved: bool = False
) -> list[Rule]:
    """Rules of attention in `transformers`. bias: of queries, keys and values; out_bias: of the output, `bias` unless
    given. interleaved: the rotary pairs there are adjacent dimensions.
    """
    steps = {
        "query": [PairsToHalves((n_heads,))] if interleaved else [],
        "key": [PairsToHalves((n_kv_heads,))] if interleaved else [],
    }
    return [
        Rule(f"{HUGGING_FACE}self_attn.{a}_proj.{kind}", f"{BLOCK}attention.{b}.{kind}", *steps.get(b, []))
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
        for kind in parameters_of_linear(bias if b != "output" or out_bias is None else out_bias)
    ]


def hugging_face_feed_forward(external: str, internal: str = "feed_forward", *, bias: bool = False) -> list[Rule]:
    """Rules of a SwiGLU in `transformers`. external, internal: its path within a block."""
    return [
        Rule(f"{HUGGING_FACE}{external}.{part}_proj.{kind}", f"{BLOCK}{internal}.{part}.{kind}")
        for part in FEED_FORWARD
        for kind in parameters_of_linear(bias)
    ]


def hugging_face_table(
    layers: list[Rule],
    tied: bool,
    prefixes: tuple[str, ...] = ("model.",),
    ignored: tuple[str, ...] = (),
    *,
    norm: bool = True,
) -> Table:
    """Weight table of a model in `transformers`. layers: the rules of all blocks. tied: no separate output matrix.
    norm: whether the last norm has weights.
    """
    first, output = "model.embed_tokens.weight", "lm_head.weight"
    rules = [Rule(first, "embedding.weight"), *layers]
    if norm:
        rules.append(Rule("model.norm.weight", "norm.weight"))
    if not tied:
        rules.append(Rule(output, "output.weight"))
    ignored = (*ignored, "*rotary_emb.inv_freq")  # a buffer in older files
    return Table(rules, (*prefixes, *WRAPPERS), ignored, ((output, first),) if tied else ())


def hugging_face_experts(
    n_experts: int, hidden_dim: int, external: str, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> list[Rule]:
    """Rules of experts stored as one (out, in) matrix each. external: their path within a block. names: of the gate,
    up and down matrices.
    """
    gate, up, down = (
        tuple(f"{HUGGING_FACE}{external}.{expert}.{name}.weight" for expert in range(n_experts)) for name in names
    )
    internal = BLOCK + "feed_forward.experts."
    return [
        Rule((*gate, *up), internal + "gate_up", Stack(2), Transpose(), Join((hidden_dim,) * 2, dim=2)),
        Rule(down, internal + "down", Stack(), Transpose()),
    ]


def gguf_attention(
    n_heads: int, n_kv_heads: int, *, bias: bool = False, out_bias: bool | None = None, interleaved: bool = True
) -> list[Rule]:
    """Rules of attention in llama.cpp. bias, out_bias: as for hugging_face_attention. interleaved: the rotary pairs are
    adjacent dimensions (LLAMA_ROPE_TYPE_NORM), not halves (LLAMA_ROPE_TYPE_NEOX).
    """
    permuted = {"q": [PairsToHalves((n_heads,))], "k": [PairsToHalves((n_kv_heads,))]} if interleaved else {}
    return [
        Rule(f"{GGUF}attn_{a}.{kind}", f"{BLOCK}attention.{b}.{kind}", *permuted.get(a, []))
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("output", "output"))
        for kind in parameters_of_linear(bias if b != "output" or out_bias is None else out_bias)
    ]


def gguf_experts(hidden_dim: int) -> list[Rule]:
    """Rules of a router and its experts in llama.cpp. Each expert's matrices are (out, in)."""
    gate_up, internal = (GGUF + "ffn_gate_exps.weight", GGUF + "ffn_up_exps.weight"), BLOCK + "feed_forward."
    return [
        Rule(GGUF + "ffn_gate_inp.weight", internal + "router.weight"),
        Rule(gate_up, internal + "experts.gate_up", Transpose(), Join((hidden_dim,) * 2, dim=2)),
        Rule(GGUF + "ffn_down_exps.weight", internal + "experts.down", Transpose()),
    ]


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
