"""What a family of models declares: one object for the registry, with its names in each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch

from luthier.architectures.settings import SettingList
from luthier.formats.names import Table
from luthier.model.transformer import Transformer


@runtime_checkable
class Config(Protocol):
    """What the Configs of all families share: a frozen dataclass with at least these fields."""

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


def no_bands(config: object) -> Mapping[str, tuple[int, ...]]:
    """No tensor holds several matrices."""
    return {}


def no_cautions(config: object) -> list[str]:
    """Other programs compute the model as we do."""
    return []


@dataclass(frozen=True)
class Names(Generic[C]):
    """The names of a family's weights and settings in one format."""

    tensors: Callable[[C], Table]
    settings: SettingList[C]
    classes: Mapping[str, str] = field(default_factory=dict)
    """For "hf": the classes of `transformers`, and the model_type of each."""
    marks: tuple[str, ...] = ()
    """Settings by which this family's files are told from those of others that look alike: a params.json of "meta",
    a "gguf" file of the same architecture. One of them is there and not 0; none: this family is the default."""
    architecture: str = ""
    """For "gguf": llama.cpp's name, where it is not the family's."""
    bands: Callable[[C], Mapping[str, tuple[int, ...]]] = no_bands
    """For "meta": the tensors that hold several matrices, and the rows of each; every one is sharded by itself."""
    cautions: Callable[[C], list[str]] = no_cautions
    """For "gguf": what llama.cpp computes in another way than the model, in words for people."""


@dataclass(frozen=True)
class Family(Generic[C]):
    """One family of models."""

    name: str
    config: type[C]
    sizes: Mapping[str, C]
    build: Callable[[C], Transformer]
    """Join the parts, on whatever device is current, `meta` too."""
    initialize: Callable[[Transformer, C, torch.Generator], None]
    """Set the first weights."""
    formats: Mapping[str, Names[C]]
    """By the name of the format: "hf", "gguf", "meta", "openai", "book"."""
