"""Which models step.cpp supports: those in which every module is exactly of a known class and unmodified.

A step reads weights in place and calls no module. It would ignore hooks, subclasses, replaced or wrapped modules,
attributes that this file does not list, and weights that were moved: such models are computed by PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from luthier.model.attention import Attention
from luthier.model.dropout import Dropout
from luthier.model.feed_forward import FeedForward, GeGLU, SwiGLU
from luthier.model.hook_point import HookPoint
from luthier.model.mask import Causal, Chunked, SlidingWindow
from luthier.model.norm import OffsetRMSNorm, RMSNorm, ScaledRMSNorm
from luthier.model.overrides import GLOBAL_HOOKS, MODULE_HOOKS, find_override
from luthier.model.qk_norm import AllHeadsNorm, HeadNorm
from luthier.model.rope import Rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.scale import RoundedScaleEmbedding, Scale, ScaledEmbedding
from luthier.model.transformer import Block, Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear

# each supported class, and all attributes, parameters, buffers and submodules that it may have. A new one must be
# implemented in step.cpp before it is listed here
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
        GeGLU: "gate up down",
        HeadNorm: "query key",
        AllHeadsNorm: "query key",
        OffsetRMSNorm: "eps weight",
        RMSNorm: "eps weight",
        ScaledRMSNorm: "eps weight scale",
        Scale: "factor",
        nn.LayerNorm: "normalized_shape eps elementwise_affine weight bias",
        nn.Linear: "in_features out_features weight bias",
        BlockLinear: "kind wide in_features out_features packed_weight bias",
        BlockEmbedding: "kind num_embeddings embedding_dim packed_weight",
        nn.Embedding: "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse weight",
        ScaledEmbedding: "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse weight "
        "scale",
        RoundedScaleEmbedding: "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse "
        "weight scale",
        Dropout: "p rank generator_seed seed",
    }.items()
}
LISTS = (nn.ModuleList,)  # containers, never called
MASKS = (Causal, SlidingWindow, Chunked)
SCALINGS = (type(None), RopeScaling)
FORWARDS = {kind: kind.forward for kind in KNOWN}

# what a step reads from the attributes of modules, besides weights
SETTINGS: dict[type[nn.Module], itemgetter[Any]] = {
    Attention: itemgetter("n_heads", "n_kv_heads", "head_dim", "mask", "scale", "softcap"),
    Rope: itemgetter("head_dim", "theta", "scaling"),
    RMSNorm: itemgetter("eps"),
    ScaledRMSNorm: itemgetter("eps", "scale"),
    OffsetRMSNorm: itemgetter("eps"),
    Scale: itemgetter("factor"),
    nn.LayerNorm: itemgetter("eps"),
    nn.Embedding: itemgetter("max_norm"),
    ScaledEmbedding: itemgetter("max_norm", "scale"),
    RoundedScaleEmbedding: itemgetter("max_norm", "scale"),
    Dropout: itemgetter("p"),
}


class Unsupported(Exception):  # noqa: N818 - not an error: the model is computed by PyTorch then
    """The reason why step.cpp does not support a model, in one line."""


def check_supported(model: Transformer) -> None:
    """Raise Unsupported for a model with any module that is not exactly of a known class."""
    for name, module in model.named_modules():
        name = name or "the model"
        kind = type(module)
        if kind not in KNOWN and kind not in LISTS:
            raise Unsupported(f"{name} is a {kind.__qualname__}, which it does not support")
        if changed := find_override(module):
            raise Unsupported(f"{name} has {changed}")
        if kind in LISTS:
            continue
        if kind.forward is not FORWARDS[kind]:
            raise Unsupported(f"{kind.__qualname__}.forward was replaced")
        if other := member_names(module) ^ KNOWN[kind]:
            raise Unsupported(f"{name} has, or lacks, {', '.join(sorted(other))}")
        if isinstance(module, Dropout) and module.p > 0 and module.training:
            raise Unsupported(f"{name} drops activations: the model is in training")
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            raise Unsupported(f"{name} has a max_norm")
        if isinstance(module, Attention) and type(module.mask) not in MASKS:
            raise Unsupported(f"{name} has a mask rule that it does not support")
        if isinstance(module, Rope) and type(module.scaling) not in SCALINGS:
            raise Unsupported(f"{name} has a RoPE scaling that it does not support")


def member_names(module: nn.Module) -> set[str]:
    """Names of a module's attributes, parameters, buffers and submodules, without those that every module has."""
    own = {name for name in vars(module) if not name.startswith("_") and name != "training"}
    return own.union(module._modules, module._parameters, module._buffers)


class Snapshot:
    """The state of a model that a step depends on, compared before each use.

    weights: the tensors whose memory the step reads. Changes of their values need no new step; new storage does.

    For 30 layers this takes 0.1 ms, and 0.3 ms while the weights push the modules out of the processor's caches: what
    touches no module is compared first, and no module is touched for hooks unless there are new ones anywhere.
    """

    def __init__(self, model: Transformer, weights: Sequence[Tensor]) -> None:
        every = list(model.modules())
        modules = [module for module in every if type(module) not in LISTS]
        self.modules, self.classes = modules, list(map(type, modules))
        self.attributes = list(map(vars, modules))
        self.sizes = list(map(len, self.attributes))  # an instance's own `forward` would be one more
        self.hooks = [getattr(module, name) for module in modules for name in MODULE_HOOKS] + list(GLOBAL_HOOKS)
        self.next_hook = RemovableHandle.next_id  # as the hooks were last looked at: each new one takes a number
        owners = [module for module in every if not isinstance(module, Dropout)]  # whose seed a step does not read
        places = [place for owner in owners for place in (owner._modules, owner._parameters, owner._buffers)]
        self.places: list[dict[str, Any]] = [place for place in places if place]
        self.held = list(map(dict, self.places))
        kinds = SETTINGS.items()
        self.settings = [(get, [vars(module) for module in modules if type(module) is kind]) for kind, get in kinds]
        self.values = [list(map(get, attributes)) for get, attributes in self.settings]
        self.dropping = [module for module in modules if isinstance(module, Dropout) and module.p > 0]
        # references that keep the memory alive, so that no other tensor can be allocated at the same address
        self.plain = [(weight, weight.detach()) for weight in weights if isinstance(weight, nn.Parameter)]
        self.packed = [weight for weight in weights if not isinstance(weight, nn.Parameter)]
        self.memory = [weight.detach() for weight in self.packed]
        self.pointers = list(map(Tensor.data_ptr, self.packed))
        self.forwards = list(FORWARDS.values())

    def is_valid(self) -> bool:
        """Whether nothing has changed."""
        return (
            self.has_no_hooks()
            and same(self.places, self.held)
            and list(map(type, self.modules)) == self.classes
            and list(map(len, self.attributes)) == self.sizes
            and list(map(Tensor.data_ptr, self.packed)) == self.pointers
            and all(starmap(Tensor.is_set_to, self.plain))  # a slice or transpose may have the same data_ptr
            and [list(map(get, attributes)) for get, attributes in self.settings] == self.values
            and not any(module.training for module in self.dropping)
            and all(map(is_, map(attrgetter("forward"), FORWARDS), self.forwards))
        )

    def has_no_hooks(self) -> bool:
        """Whether no module has hooks. There were none when the snapshot was made."""
        next_hook = RemovableHandle.next_id
        if next_hook != self.next_hook:
            if any(self.hooks):
                return False
            self.next_hook = next_hook
        return True


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether modules and tensors are identical objects. Fast if they are: Python then only compares pointers."""
    try:
        return found == expected
    except RuntimeError:  # different tensors were compared by value
        return False


def readable_weight(tensor: Tensor, name: str) -> Tensor:
    """A weight that a step can read in place: contiguous bfloat16, int8 or uint8. Raises Unsupported."""
    if type(tensor) not in (Tensor, nn.Parameter):
        raise Unsupported(f"{name} is a {type(tensor).__qualname__}, not a plain tensor")
    if not tensor.is_contiguous():
        raise Unsupported(f"{name} is not contiguous in memory")
    if tensor.dtype not in (torch.bfloat16, torch.int8, torch.uint8):
        raise Unsupported(f"{name} is in {str(tensor.dtype).removeprefix('torch.')}, and it computes in bfloat16")
    return tensor
