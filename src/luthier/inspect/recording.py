"""Record every activation of a Transformer's forward pass with hooks.

    recording = record(model, tokens)
    recording.layers[3].attention_weights[0, 5]     # layer 3, head 5: (T, T), query by key

Modules publish what is recorded through their hook points. Fused attention never materializes its weights, so attention
is computed eagerly while recording.

Shapes: B batch, T tokens, C dim, H query heads, K key heads, D head_dim, V vocab_size, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from luthier.errors import LuthierError
from luthier.model.moe import MoE
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Routing:
    """Expert routing of a layer.

    logits (B, T, E) float32; chosen (B, T, k) expert ids; scores (B, T, k), by which expert inputs or outputs are
    multiplied (see MoE); load (E,), tokens routed to each expert, excluding padding.
    """

    logits: Tensor
    chosen: Tensor
    scores: Tensor
    load: Tensor


@dataclass(frozen=True)
class Layer:
    """One block's activations, in the model's dtype unless noted.

    attention_weights (B, H, T, T) float32: query (third) by key (last), 0 where masked.
    heads (B, T, H, D): output of each head, before the output projection.
    attention_added, feed_forward_added (B, T, C): what each sublayer adds to the residual stream.
    after_attention, after_feed_forward (B, T, C): the residual stream after each sublayer.
    routing: None where the feed-forward is not a mixture of experts.
    """

    attention_weights: Tensor
    heads: Tensor
    attention_added: Tensor
    after_attention: Tensor
    feed_forward_added: Tensor
    after_feed_forward: Tensor
    routing: Routing | None


@dataclass(frozen=True)
class Recording:
    """Activations of a forward pass.

    tokens (B, T); valid (B, T) bool or None, False = padding; embedding (B, T, C), input of the first block including
    learned positions; layers, one per block; normed (B, T, C), input of the output matrix; logits (B, T, V).
    """

    tokens: Tensor
    valid: Tensor | None
    embedding: Tensor
    layers: tuple[Layer, ...]
    normed: Tensor
    logits: Tensor

    @property
    def residual(self) -> list[Tensor]:
        """The residual stream, (B, T, C) each: input of the first block, then output of each block."""
        return [self.embedding, *(layer.after_feed_forward for layer in self.layers)]


@torch.no_grad()  # not inference_mode: its tensors could not be used to train a probe
def record(model: Transformer, tokens: Tensor, valid: Tensor | None = None) -> Recording:
    """Run the model on (B, T) ids and record its activations. valid (B, T) bool, False = padding.

        >>> import torch
        >>> lm = luthier.load("runs/book")
        >>> recording = luthier.inspect.record(lm.model, torch.tensor([lm.tokenizer.encode("ka lo")]))
        >>> recording.layers[0].attention_weights.shape  # (B, H, T, T)
        torch.Size([1, 2, 5, 5])

    The model runs in eval mode (no dropout), whatever its mode. Active `replace` or `ablate` interventions apply first
    and are part of the recording. The attention weights take 4 * L * H * B * T * T bytes. Raises a LuthierError if
    there are no tokens, or for a token outside the model's vocabulary.
    """
    if not tokens.numel():
        raise LuthierError("there are no tokens to inspect: give a text")
    if (largest := int(tokens.max())) >= (size := model.embedding.num_embeddings):
        raise LuthierError(
            f"token {largest} is outside the model's vocabulary of {size}: the tokenizer belongs to another model"
        )
    blocks = model.layers
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        stack.enter_context(eager_mode(model))
        stack.enter_context(unfused_attention(model))
        whole = stack.enter_context(hook_recorder())
        whole.before(blocks[0], "embedding")
        whole.after(model.norm, "normed")
        recorders = [stack.enter_context(hook_recorder()) for _ in blocks]
        for block, recorder in zip(blocks, recorders, strict=True):
            hook_block(block, recorder)
        logits = model(tokens, valid=valid)
    layers = tuple(build_layer(recorder.values, valid) for recorder in recorders)
    return Recording(tokens, valid, whole.values["embedding"], layers, whole.values["normed"], logits)


class HookRecorder:
    """Records inputs and outputs of modules under given names."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, name: str) -> None:
        """Record the module's first input."""

        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.values[name] = inputs[0]

        self.handles.append(module.register_forward_pre_hook(keep))

    def after(self, module: nn.Module, name: str, read: Callable[..., Any] = lambda inputs, output: output) -> None:
        """Record the module's output, or `read(inputs, output)`."""

        def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.values[name] = read(inputs, output)

        self.handles.append(module.register_forward_hook(keep))


@contextmanager
def hook_recorder() -> Iterator[HookRecorder]:
    """A HookRecorder whose hooks are removed at the end."""
    recorder = HookRecorder()
    try:
        yield recorder
    finally:
        for handle in recorder.handles:
            handle.remove()


def hook_block(block: Block, recorder: HookRecorder) -> None:
    """Register all recording hooks of a block."""
    recorder.after(block.attention.weights, "attention_weights")
    recorder.after(block.attention.heads, "heads")
    recorder.after(block.attention_dropout, "attention_added")
    recorder.before(block.after_attention_at, "after_attention")
    recorder.after(block.feed_forward_dropout, "feed_forward_added")
    recorder.after(block, "after_feed_forward")
    if isinstance(block.feed_forward, MoE):
        recorder.after(block.feed_forward.routing, "routing")


def build_layer(values: dict[str, Any], valid: Tensor | None) -> Layer:
    """Build a Layer from what was recorded in a block."""
    routed, routing = values.pop("routing", None), None
    if routed is not None:
        B, T, _ = values["after_attention"].shape
        counted = routed.chosen if valid is None else routed.chosen[valid.flatten()]
        load = F.one_hot(counted.flatten(), routed.logits.shape[1]).sum(0)
        logits, chosen, scores = (tensor.view(B, T, -1) for tensor in routed)
        routing = Routing(logits, chosen, scores, load)
    return Layer(**values, routing=routing)


@contextmanager
def unfused_attention(model: Transformer) -> Iterator[None]:
    """Compute attention unfused, so that its weights pass through their hook points; restore the cores after."""
    layers = [block.attention for block in model.layers]
    cores = [(attention.core, attention.training_core) for attention in layers]
    model.choose_cores(weights=True)
    try:
        yield
    finally:
        for attention, (core, training_core) in zip(layers, cores, strict=True):
            attention.core, attention.training_core = core, training_core


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode within the context; restore each module's mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def eager_mode(model: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled blocks eagerly within the context: compiled code ignores hooks registered after compilation."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
    return nullcontext()
