"""What GPT-2's weights are called in "Build a Large Language Model (From Scratch)" (its GPTModel)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luthier.architectures.gpt2 import Config
from luthier.architectures.names.settings import LARGEST_DEPTH, ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import Rule, Shape, Table, each_layer

HEAD_DIM = 64  # of every GPT-2 that was published, and of the book's
PREFIXES = ("module.", "_orig_mod.")  # of models saved from within DistributedDataParallel and torch.compile


def table(config: Config) -> Table:
    """Names of GPTModel. Its matrices are (out, in) and its queries, keys and values apart, as ours."""
    ours, theirs = "blocks.{layer}.", "trf_blocks.{layer}."
    parts = [("W_query", "query"), ("W_key", "key"), ("W_value", "value")]
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
    block = [Rule(f"{theirs}att.{a}.{kind}", f"{ours}attention.{b}.{kind}") for a, b in parts for kind in kinds]
    both = [
        ("att.out_proj", "attention.output"),
        ("ff.layers.0", "feed_forward.up"),
        ("ff.layers.2", "feed_forward.down"),
    ]
    block += [Rule(f"{theirs}{a}.{kind}", f"{ours}{b}.{kind}") for a, b in both for kind in ("weight", "bias")]
    for a, b in (("norm1", "attention_norm"), ("norm2", "feed_forward_norm")):
        block += [Rule(f"{theirs}{a}.scale", f"{ours}{b}.weight"), Rule(f"{theirs}{a}.shift", f"{ours}{b}.bias")]
    rules = [
        Rule("tok_emb.weight", "embedding.weight"),
        Rule("pos_emb.weight", "position_embedding.weight"),
        *each_layer(range(config.n_layers), block),
        Rule("final_norm.scale", "norm.weight"),
        Rule("final_norm.shift", "norm.bias"),
    ]
    ignored = ("trf_blocks.*.att.mask",)  # the causal mask
    if config.tie_embeddings:
        return Table(rules, PREFIXES, ignored, (("out_head.weight", "tok_emb.weight"),))
    return Table([*rules, Rule("out_head.weight", "output.weight")], PREFIXES, ignored)


def read_config(shapes: Mapping[str, Shape], said: Mapping[str, Any], *, tied: bool, file: str) -> Config:
    """The Config of the weights with these shapes.

    Shapes say everything but the number of heads: they are of 64 dimensions, unless `said`, the book's dict
    (GPT_CONFIG_124M) of this model, has another `n_heads`. file: the name of that dict's file, for errors. tied:
    whether the output matrix is the embedding, by their numbers.
    """
    settings, bare = ConfigJson(said, file), Table([], PREFIXES).bare
    sizes = {bare(name): shape for name, shape in shapes.items()}
    tokens, positions = sizes.get("tok_emb.weight", ()), sizes.get("pos_emb.weight", ())
    if len(tokens) != 2 or len(positions) != 2:
        raise LuthierError(
            'no GPTModel of "Build a Large Language Model (From Scratch)": it has no tok_emb.weight or pos_emb.weight'
        )
    layers = [int(found[1]) for name in sizes if (found := re.match(r"trf_blocks\.(\d{1,4})\.", name))]
    if not 0 < len(set(layers)) == max(layers, default=-1) + 1 <= LARGEST_DEPTH:
        raise LuthierError("no GPTModel: its 'trf_blocks' are not numbered from 0 on")
    dim = tokens[1]
    if dim % HEAD_DIM and "n_heads" not in settings.values:
        raise LuthierError(
            f"the weights do not say how many heads there are, and {dim} dimensions are no multiple of {HEAD_DIM}: "
            f'write {{"n_heads": ...}} into {file} beside them'
        )
    return Config(
        vocab_size=tokens[0],
        context_length=positions[0],
        dim=dim,
        n_layers=len(set(layers)),
        n_heads=settings.count("n_heads", max(1, dim // HEAD_DIM)),
        qkv_bias="trf_blocks.0.att.W_query.bias" in sizes,
        tie_embeddings=tied,
        dropout=settings.share("drop_rate", 0.1),
    )
