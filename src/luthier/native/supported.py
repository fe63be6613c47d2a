"""Which models step.cpp computes: those whose every module is exactly one that it knows, with nothing added.

A step reads weights where they lie and calls no module. It would pass over a hook, a subclass, a replaced or wrapped
module, an attribute that this file does not list, or a weight that was moved: PyTorch computes such a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from luthier.model.attention import Attention
from luthier.model.dropout import Dropout
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.hook_point import HookPoint
from luthier.model.mask import Causal, Chunked, SlidingWindow
from luthier.model.norm import RMSNorm
from luthier.model.overrides import GLOBAL_HOOKS, MODULE_HOOKS, find_override
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear

# each kind of module, and all that it may have: attributes, weights and modules within it. What a class is given anew,
# step.cpp must compute before it is listed here
KNOWN: dict[type[nn.Module], frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        Transformer: "tie_embeddings activation_checkpointing embedding position_embedding dropout blocks norm output",
        Block: "attention_norm attention attention_post attention_dropout feed_forward_norm feed_forward "
        "feed_forward_post feed_forward_dropout",
        nn.Identity: "",
        Attention: "n_heads n_kv_heads head_dim value_dim mask scale softcap query key value output sinks qk_steps "
        "dropout weights heads core training_core",
        HookPoint: "",
        Rope: "head_dim theta scaling",
        SwiGLU: "gate up down",
        FeedForward: "up down",
        RMSNorm: "eps weight",
        nn.LayerNorm: "normalized_shape eps elementwise_affine weight bias",
        nn.Linear: "in_features out_features weight bias",
        BlockLinear: "kind wide in_features out_features numbers bias",
        BlockEmbedding: "kind num_embeddings embedding_dim numbers",
        nn.Embedding: "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse weight",
        Dropout: "p rank generator_seed seed",
    }.items()
}
LISTS = (nn.ModuleList,)  # hold modules, and are never called
MASKS = (Causal, SlidingWindow, Chunked)
SCALINGS = (type(None), RopeScaling)
FORWARDS = {kind: kind.forward for kind in KNOWN}

# what a step took from modules, besides weights
SETTINGS: dict[type[nn.Module], attrgetter[Any]] = {
    Attention: attrgetter("n_heads", "n_kv_heads", "head_dim", "mask", "scale", "softcap"),
    Rope: attrgetter("head_dim", "theta", "scaling"),
    RMSNorm: attrgetter("eps"),
    nn.LayerNorm: attrgetter("eps"),
    nn.Embedding: attrgetter("max_norm"),
    Dropout: attrgetter("p"),
}


class Unfit(Exception):  # noqa: N818 - not an error: the model is computed by PyTorch then
    """A model that step.cpp does not compute, and why: one line."""


def check(model: Transformer) -> None:
    """Raise Unfit for a model with any module that is not exactly a known one."""
    for name, module in model.named_modules():
        name = name or "the model"
        kind = type(module)
        if kind not in KNOWN and kind not in LISTS:
            raise Unfit(f"{name} is a {kind.__qualname__}, which it does not know")
        if changed := find_override(module):
            raise Unfit(f"{name} has {changed}")
        if kind in LISTS:
            continue
        if kind.forward is not FORWARDS[kind]:
            raise Unfit(f"{kind.__qualname__}.forward was replaced")
        if other := names_of(module) ^ KNOWN[kind]:
            raise Unfit(f"{name} has, or lacks, {', '.join(sorted(other))}")
        if isinstance(module, Dropout) and module.p > 0 and module.training:
            raise Unfit(f"{name} drops activations: the model is in training")
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            raise Unfit(f"{name} has a max_norm")
        if isinstance(module, Attention) and type(module.mask) not in MASKS:
            raise Unfit(f"{name} has a mask rule that it does not know")
        if isinstance(module, Rope) and type(module.scaling) not in SCALINGS:
            raise Unfit(f"{name} has a scaling that it does not know")


def names_of(module: nn.Module) -> set[str]:
    """Attributes, weights and modules of a module, but for those of every module."""
    own = {name for name in vars(module) if not name.startswith("_") and name != "training"}
    return own.union(module._modules, module._parameters, module._buffers)


class Snapshot:
    """All of a model that a step depends on, to be compared before each use: some 0.1 ms for 30 layers.

    weights: the tensors whose memory the step reads. What is written into them, the step reads; other memory it would
    not see.
    """

    def __init__(self, model: Transformer, weights: Sequence[Tensor]) -> None:
        every = list(model.modules())
        modules = [module for module in every if type(module) not in LISTS]
        self.modules, self.classes = modules, list(map(type, modules))
        self.attributes = list(map(vars, modules))
        self.sizes = list(map(len, self.attributes))  # a forward of its own would be one more
        self.hooks = [getattr(module, name) for module in modules for name in MODULE_HOOKS] + list(GLOBAL_HOOKS)
        places = [place for owner in every for place in (owner._modules, owner._parameters, owner._buffers)]
        self.places: list[dict[str, Any]] = [place for place in places if place]
        self.held = list(map(dict, self.places))
        kinds = SETTINGS.items()
        self.settings = [(get, [module for module in modules if type(module) is kind]) for kind, get in kinds]
        self.values = [list(map(get, modules)) for get, modules in self.settings]
        self.dropping = [module for module in modules if isinstance(module, Dropout) and module.p > 0]
        # their memory is kept while this is, so that no other tensor can come to lie there
        self.plain = [(weight, weight.detach()) for weight in weights if isinstance(weight, nn.Parameter)]
        self.packed = [weight for weight in weights if not isinstance(weight, nn.Parameter)]
        self.memory = [weight.detach() for weight in self.packed]
        self.pointers = list(map(Tensor.data_ptr, self.packed))
        self.forwards = list(FORWARDS.values())

    def holds(self) -> bool:
        """Whether all is as it was."""
        return (
            not any(self.hooks)
            and same(self.places, self.held)
            and list(map(type, self.modules)) == self.classes
            and list(map(len, self.attributes)) == self.sizes
            and list(map(Tensor.data_ptr, self.packed)) == self.pointers
            and all(starmap(Tensor.is_set_to, self.plain))  # a part or a transpose begins at the same place
            and [list(map(get, modules)) for get, modules in self.settings] == self.values
            and not any(module.training for module in self.dropping)
            and all(map(is_, map(attrgetter("forward"), FORWARDS), self.forwards))
        )


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether modules and tensors are the very same. Fast where they are: then Python compares nothing but pointers."""
    try:
        return found == expected
    except RuntimeError:  # two tensors were compared: they are not the same one
        return False


def numbers_of(tensor: Tensor, name: str) -> Tensor:
    """A weight that a step can read where it lies: bfloat16, int8 or uint8, row by row. Raises Unfit."""
    if type(tensor) not in (Tensor, nn.Parameter):
        raise Unfit(f"{name} is a {type(tensor).__qualname__}, not a plain tensor")
    if not tensor.is_contiguous():
        raise Unfit(f"{name} does not lie row by row in memory")
    if tensor.dtype not in (torch.bfloat16, torch.int8, torch.uint8):
        raise Unfit(f"{name} is in {str(tensor.dtype).removeprefix('torch.')}, and it computes in bfloat16")
    return tensor
