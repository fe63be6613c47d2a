"""Attention patterns: without weights, with weights, causal, by head, and with grouped queries.

Shapes: T tokens, C dim, H query heads, K key heads, D head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luthier.figures.models import Models, entering
from luthier.figures.picture import Picture, canvas, finish, label, matrix, name_ticks
from luthier.model.attention import Attention
from luthier.model.mask import causal

TOKENS = 14
MAX_HEADS = 12


@torch.no_grad()
def weights_of(attention: Attention, x: Tensor, *, masked: bool = True) -> Tensor:
    """Attention weights of each head as published by the layer, (T, C) -> (H, T, T); rows are queries and sum to 1.

    masked: use the layer's own mask; otherwise every token attends to every other.
    """
    context = attention.context(torch.arange(len(x))[None])
    if not masked:
        context = context._replace(mask=torch.ones(1, 1, len(x), len(x), dtype=torch.bool))
    published: list[Tensor] = []
    handle = attention.weights.register_forward_hook(lambda _, inputs, output: published.append(output))
    attention.choose_cores(weights=True)
    try:
        attention(x[None], context)
    finally:
        handle.remove()
        attention.choose_cores(x.device.type, x.dtype)
    return published[0][0]


def sharpest(models: Models) -> tuple[Attention, Tensor, list[str], int]:
    """The attention layer with the sharpest heads, its input (T, C), the tokens' names, and its sharpest head.

    In a small model most heads attend diffusely, and in a large one mostly to the first token, an attention sink
    (arXiv 2309.17453); neither shows much. So sharpness is the largest weight on any token but the first.
    """
    lm = models.lm
    ids = models.ids(lm, TOKENS)
    layers = [block.attention for block in lm.model.layers]
    found = []
    for layer, x in zip(layers, entering(layers, lm, ids), strict=True):
        weights = weights_of(layer, x)  # (H, T, T)
        clear = weights[:, 1:, 1:].amax(-1).mean(-1)  # (H,)
        found.append((float(clear.mean()), int(clear.argmax()), layer, x))
    _, head, layer, x = max(found, key=lambda each: each[0])
    return layer, x, [label(lm.tokenizer.piece(token)) for token in ids], head


def long_table(names: list[str], columns: dict[str, Tensor]) -> dict[str, list[object]]:
    """One row for each pair of query and key."""
    size = len(names)
    table: dict[str, list[object]] = {
        "query": [i for i in range(size) for _ in names], "key": [j for _ in names for j in range(size)],
        "query_token": [name for name in names for _ in names], "key_token": [*names] * size,
    }  # fmt: skip
    return table | {name: values.flatten().tolist() for name, values in columns.items()}


@torch.no_grad()
def attention(models: Models) -> Picture:
    """From token similarity to causal attention, in four steps."""
    layer, x, names, head = sharpest(models)
    plain = (x @ x.T / math.sqrt(x.shape[1])).softmax(-1)
    columns = {
        "without_weights": plain,
        "with_weights": weights_of(layer, x, masked=False)[head],
        "causal": weights_of(layer, x)[head],
        "mean_of_heads": weights_of(layer, x).mean(0),
    }
    figure, blank = canvas(11, 9), [""] * len(names)
    titles = (
        "without weights: softmax(x · x)",
        f"with weights: softmax(q · k), head {head + 1}",
        "causal: the same head",
        f"causal: mean of {layer.n_heads} heads",
    )
    for number, (axes, values, title) in enumerate(
        zip(figure.subplots(2, 2).flat, columns.values(), titles, strict=True)
    ):
        matrix(figure, axes, values, "weight", vmin=0)
        name_ticks(axes, names if number > 1 else blank, names if number % 2 == 0 else blank)
        axes.set(xlabel="key", ylabel="query")
        axes.set_title(title, fontsize=10, loc="left")
    caption = (
        "Without weights a token attends to similar ones, mostly itself; with learned queries and keys each head "
        "attends to its own choice; the causal mask hides later tokens; each row sums to 1 (the block with the "
        "sharpest attention of a trained model)."
    )
    return finish("attention", "Attention, step by step", caption, figure, long_table(names, columns))


def heads(models: Models) -> Picture:
    """Attention weights of each head of one block."""
    layer, x, names, _ = sharpest(models)
    weights = weights_of(layer, x)[:MAX_HEADS]
    largest = float(weights[:, 1:].max())  # the first token attends only to itself
    columns = min(4, len(weights))
    rows = math.ceil(len(weights) / columns)
    figure = canvas(3.3 * columns + 0.6, 3.2 * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(weights):
            axes.set_axis_off()
            continue
        matrix(figure, axes, weights[number], "weight" if (number + 1) % columns == 0 else "", vmin=0, vmax=largest)
        name_ticks(
            axes,
            names if number + columns >= len(weights) else [""] * len(names),
            names if number % columns == 0 else [""] * len(names),
        )
        axes.set_title(f"head {number + 1}", fontsize=10, loc="left")
        axes.set(
            xlabel="key" if number + columns >= len(weights) else "", ylabel="query" if number % columns == 0 else ""
        )
    caption = (
        "The heads of one block see the same tokens, and each has learned to attend to different ones "
        "(the block with the sharpest attention of a trained model)."
    )
    table = long_table(names, {f"head_{number + 1}": values for number, values in enumerate(weights)})
    return finish("heads", "Attention by head", caption, figure, table)


@torch.no_grad()
def influence(n_heads: int, n_kv_heads: int, dim: int = 64) -> Tensor:
    """Sensitivity of each query head's weights to replacing each key head, (H, K): mean |difference|."""
    generator = torch.Generator().manual_seed(0)
    layer = Attention(dim, n_heads, n_kv_heads)
    for weight in layer.parameters():
        weight.normal_(0, 0.3, generator=generator)
    x = torch.randn(16, dim, generator=generator)
    before, kept = weights_of(layer, x), layer.key.weight.clone()
    changes = []
    for head in range(n_kv_heads):
        rows = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        layer.key.weight[rows] = torch.randn(layer.head_dim, dim, generator=generator) * 0.3
        changes.append((weights_of(layer, x) - before).abs().mean((1, 2)))
        layer.key.weight.copy_(kept)
    assert layer.mask is causal
    return torch.stack(changes, 1)


def grouped_queries(models: Models) -> Picture:
    """Which query heads depend on which key head, for multi-head, grouped-query and multi-query attention."""
    n_heads, kinds = 8, {"multi_head": 8, "grouped": 2, "multi_query": 1}
    found = {name: influence(n_heads, n_kv_heads) for name, n_kv_heads in kinds.items()}
    figure = canvas(11, 4.6)
    largest = max(float(values.max()) for values in found.values())
    grid = figure.subplots(1, 3, width_ratios=(8, 3, 2))
    for axes, (name, values) in zip(grid, found.items(), strict=True):
        unit = "mean |change| of attention" if axes is grid[-1] else ""
        matrix(figure, axes, values, unit, grid, vmin=0, vmax=largest)
        n_keys = values.shape[1]
        title = f"{name.replace('_', '-')}\nkey heads: {n_keys}, cache: {n_keys}/{n_heads}"
        axes.set(xlabel="key head replaced", ylabel="query head")
        axes.set_title(title, fontsize=10, loc="left")
        name_ticks(axes, [str(head + 1) for head in range(n_keys)], [str(head + 1) for head in range(n_heads)])
        axes.tick_params(axis="x", rotation=0)
    caption = (
        "Replace one key head and see which query heads change: with grouped queries several share a key head, so that "
        "the cache of keys and values shrinks by as much (arXiv 2305.13245)."
    )
    table: dict[str, list[object]] = {"kind": [], "query_head": [], "key_head": [], "mean_absolute_change": []}
    for name, values in found.items():
        for query, row in enumerate(values.tolist()):
            for key, change in enumerate(row):
                for column, value in zip(table.values(), (name, query, key, change), strict=True):
                    column.append(value)
    return finish("grouped_queries", "Grouped queries", caption, figure, table)
