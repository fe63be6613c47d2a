"""The declaration of a model family: one object for the registry, with its weights and settings in each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch

from luthier.architectures.settings import SettingList
from luthier.formats.weight_table import Table
from luthier.model.transformer import Transformer


@runtime_checkable
class Config(Protocol):
    """The interface of every family's Config: a frozen dataclass with at least these fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def tie_embeddings(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


C = TypeVar("C", bound=Config)


def no_row_groups(config: object) -> Mapping[str, tuple[int, ...]]:
    """The default of `FormatSpec.row_groups`: no tensor is a concatenation of matrices."""
    return {}


def no_caveats(config: object) -> list[str]:
    """The default of `FormatSpec.caveats`: none."""
    return []


@dataclass(frozen=True)
class FormatSpec(Generic[C]):
    """A family's weights and settings in one format."""

    tensors: Callable[[C], Table]
    settings: SettingList[C]
    classes: Mapping[str, str] = field(default_factory=dict)
    """For "hf": class names in `transformers` and the model_type of each."""
    distinctive_keys: tuple[str, ...] = ()
    """Settings that tell this family's files from those of similar ones: a params.json of "meta", a "gguf" file of the
    same architecture. At least one is present and not 0; empty for the default family."""
    architecture: str = ""
    """For "gguf": llama.cpp's name of the architecture; the family's name unless given."""
    row_groups: Callable[[C], Mapping[str, tuple[int, ...]]] = no_row_groups
    """For "meta": tensors that are matrices stacked by rows, with the rows of each: each is sharded separately."""
    caveats: Callable[[C], list[str]] = no_caveats
    """For "gguf": messages about what llama.cpp would compute differently."""


@dataclass(frozen=True)
class Family(Generic[C]):
    """A model family: its config, sizes, builder, initialization and formats."""

    name: str
    config: type[C]
    sizes: Mapping[str, C]
    build: Callable[[C], Transformer]
    """Build the model on the current default device, which may be `meta`. Weights are not initialized."""
    initialize: Callable[[Transformer, C, torch.Generator], None]
    """Initialize the weights in place."""
    formats: Mapping[str, FormatSpec[C]]
    """By name of the format: "hf", "gguf", "meta", "openai", "book"."""
