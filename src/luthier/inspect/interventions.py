"""Interventions on the activations of a Transformer: ablation of heads and activation patching.

    with ablate(model, {(3, 5), (7, 0)}):           # without head 5 of layer 3 and head 0 of layer 7
        logits = model(tokens)
    with replace(model, 3, "attention_added", lambda x: other.layers[3].attention_added):
        logits = model(tokens)                      # layer 3's attention as it was in another recording

Shapes: B batch, T tokens, C dim, H query heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from luthier.errors import UsageError
from luthier.inspect.recording import eager_mode
from luthier.model.transformer import Block, Transformer

Part = Literal["heads", "attention_added", "feed_forward_added", "after_feed_forward"]
Change = Callable[[Tensor], Tensor]


@contextmanager
def replace(model: Transformer, layer: int, part: Part, function: Change) -> Iterator[None]:
    """Within the context, replace one activation of a layer (from 0) by `function(activation)`.

        >>> lm = luthier.load("runs/book")
        >>> with luthier.inspect.replace(lm.model, 0, "feed_forward_added", lambda x: x * 0):
        ...     text = lm.generate("ka", max_new_tokens=3)

    part, named and shaped as in `Layer`: heads (B, T, H, D), or attention_added, feed_forward_added and
    after_feed_forward, (B, T, C). With a cache, T is the new tokens only. Raises a UsageError for a layer or part that
    does not exist, and, in the forward pass, for a function that changes the shape.
    """
    block = layer_at(model, layer)
    if part not in get_args(Part):
        raise UsageError(f"no part '{part}': the parts that can be replaced are {', '.join(get_args(Part))}")

    def change(x: Tensor) -> Tensor:
        new = function(x)
        if new.shape != x.shape:  # it could broadcast and be silently wrong
            was, now = tuple(x.shape), tuple(new.shape)
            raise UsageError(f"{part} of layer {layer} is {was} and its replacement {now}: keep the shape")
        return new.to(x)

    handle = hook(block, part, change)
    try:
        with eager_mode(model):
            yield
    finally:
        handle.remove()


@contextmanager
def ablate(model: Transformer, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Within the context, zero the output of these heads, (layer, head) from 0, before the output projection.

        >>> lm = luthier.load("runs/book")
        >>> with luthier.inspect.ablate(lm.model, [(0, 1)]):
        ...     text = lm.generate("ka", max_new_tokens=3)

    Raises a UsageError for a head that does not exist.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        n_heads = layer_at(model, layer).attention.n_heads
        if not 0 <= head < n_heads:
            raise UsageError(f"layer {layer} has no head {head}: its heads are 0 to {n_heads - 1}")
        by_layer.setdefault(layer, []).append(head)
    with ExitStack() as stack:
        for layer, ablated in by_layer.items():
            stack.enter_context(replace(model, layer, "heads", head_ablation(ablated)))
        yield


def head_ablation(heads: list[int]) -> Change:
    """A function that sets these heads of (B, T, H, D) to zero."""

    def zero_heads(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, heads] = 0
        return x

    return zero_heads


def layer_at(model: Transformer, layer: int) -> Block:
    """The block at this index. Raises a UsageError if there is none."""
    if not 0 <= layer < len(model.blocks):
        raise UsageError(f"there is no layer {layer}: this model's layers are 0 to {len(model.blocks) - 1}")
    return model.layers[layer]


def hook(block: Block, part: Part, change: Change) -> RemovableHandle:
    """Register a hook that applies `change` to the part."""

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(output)

    modules: dict[str, nn.Module] = {
        "heads": block.attention.heads,
        "attention_added": block.attention_dropout,
        "feed_forward_added": block.feed_forward_dropout,
        "after_feed_forward": block,
    }
    return modules[part].register_forward_hook(after)
