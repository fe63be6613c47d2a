"""What GPT-2's weights and settings are called in OpenAI's folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.architectures.gpt2 import Config
from luthier.architectures.names.settings import LARGEST_DEPTH, ConfigJson
from luthier.formats.names import Reshape, Rule, Split, Step, Table, Transpose, each_layer


def table(config: Config) -> Table:
    """Names of OpenAI's variables. Matrices are (1, in, out), as a convolution of width 1; q, k and v are in one."""
    ours, theirs, dim = "blocks.{layer}.", "model/h{layer}/", config.dim
    qkv = [tuple(f"{ours}attention.{part}.{kind}" for part in ("query", "key", "value")) for kind in ("weight", "bias")]
    thirds = Split((dim,) * 3)

    def matrix(rows: int, columns: int) -> list[Step]:
        return [Reshape((1, rows, columns), (rows, columns)), Transpose()]

    block = [
        *norm(theirs + "ln_1", ours + "attention_norm"),
        Rule(theirs + "attn/c_attn/w", qkv[0], *matrix(dim, 3 * dim), thirds),
        Rule(theirs + "attn/c_attn/b", qkv[1], thirds),
        Rule(theirs + "attn/c_proj/w", ours + "attention.output.weight", *matrix(dim, dim)),
        Rule(theirs + "attn/c_proj/b", ours + "attention.output.bias"),
        *norm(theirs + "ln_2", ours + "feed_forward_norm"),
        Rule(theirs + "mlp/c_fc/w", ours + "feed_forward.up.weight", *matrix(dim, 4 * dim)),
        Rule(theirs + "mlp/c_fc/b", ours + "feed_forward.up.bias"),
        Rule(theirs + "mlp/c_proj/w", ours + "feed_forward.down.weight", *matrix(4 * dim, dim)),
        Rule(theirs + "mlp/c_proj/b", ours + "feed_forward.down.bias"),
    ]
    rules = [
        Rule("model/wte", "embedding.weight"),
        Rule("model/wpe", "position_embedding.weight"),
        *each_layer(range(config.n_layers), block),
        *norm("model/ln_f", "norm"),
    ]
    return Table(rules, ignored=("global_step",))


def norm(theirs: str, ours: str) -> list[Rule]:
    """The two weights of a layer norm."""
    return [Rule(f"{theirs}/g", f"{ours}.weight"), Rule(f"{theirs}/b", f"{ours}.bias")]


def read_config(values: Mapping[str, Any]) -> Config:
    """The Config of an hparams.json."""
    settings = ConfigJson(values, "hparams.json")
    return Config(
        vocab_size=settings.count("n_vocab"),
        context_length=settings.count("n_ctx"),
        dim=settings.count("n_embd"),
        n_layers=settings.count("n_layer", most=LARGEST_DEPTH),
        n_heads=settings.count("n_head"),
    )
