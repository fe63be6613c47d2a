"""Memory and time of the KV cache by text length."""

from __future__ import annotations

import time

import torch

from luthier.architectures import registry
from luthier.figures.models import Models
from luthier.figures.picture import COLORS, DASHES, Picture, canvas, finish, plain_log, tidy
from luthier.model.transformer import Transformer

LENGTHS = (32, 64, 128, 256, 512, 1024)
HEADS = {"MHA": 4, "GQA": 2, "MQA": 1}  # key heads for 4 query heads


@torch.no_grad()
def cache_bytes(model: Transformer, ids: torch.Tensor) -> int:
    """Bytes of the keys and values of a text, measured by a forward pass."""
    n_tokens = ids.shape[1]
    cache = model.make_cache(n_tokens)
    model.hidden(ids, cache)
    return sum(buffer.nbytes for layer in cache.layers for buffer in layer.buffers or ())


@torch.no_grad()
def seconds_a_token(model: Transformer, ids: torch.Tensor, *, cached: bool, repeats: int = 3) -> float:
    """Seconds for one more token after a text, the best of several: with a KV cache, or recomputing the text."""
    n_tokens, best = ids.shape[1], float("inf")
    cache = model.make_cache(n_tokens + 1)
    if cached:
        model.hidden(ids, cache)
    new = ids[:, :1]
    for _ in range(repeats):
        start = time.perf_counter()
        if cached:
            model(new, cache)
            cache.truncate(n_tokens)
        else:
            model(torch.cat([ids, new], 1))
        best = min(best, time.perf_counter() - start)
    return best


def cache(models: Models, lengths: tuple[int, ...] = LENGTHS) -> Picture:
    """Cache memory for three numbers of key heads, and time per token with and without the cache."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(512, (1, length), generator=generator) for length in lengths]
    built = {
        name: registry.build(registry.preset("llama-nano", n_kv_heads=count)).eval() for name, count in HEADS.items()
    }
    table: dict[str, list[float]] = {"tokens": list(lengths)}
    for name, model in built.items():
        table[f"bytes_{name}"] = [cache_bytes(model, ids) for ids in texts]
    for way in (True, False):
        name = "seconds_with_cache" if way else "seconds_without_cache"
        table[name] = [seconds_a_token(built["GQA"], ids, cached=way) for ids in texts]
    figure = canvas(11, 4.2)
    left, right = figure.subplots(1, 2)
    for number, (name, count) in enumerate(HEADS.items()):
        kilobytes = [value / 1e3 for value in table[f"bytes_{name}"]]
        left.plot(
            lengths,
            kilobytes,
            "o",
            ls=DASHES[number],
            color=COLORS[number],
            label=f"{name}: {count} key heads" if count > 1 else f"{name}: 1 key head",
        )
    for number, name in enumerate(("with_cache", "without_cache")):
        milliseconds = [1e3 * value for value in table[f"seconds_{name}"]]
        right.plot(lengths, milliseconds, "o", ls=DASHES[number], color=COLORS[number], label=name.replace("_", " "))
    tidy(left, "tokens read", "cache (kB)", "memory: keys and values in float32")
    tidy(right, "tokens read", "time of the next token (ms)", "time, measured here")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        plain_log(axes)
        axes.legend(frameon=False)
    caption = (
        "The cache grows with each token, by as much as there are key heads (left: a Llama of 4 layers and 4 query "
        "heads), and avoids recomputing the whole text for each new token (right)."
    )
    return finish("cache", "What the KV cache costs and saves", caption, figure, table)
