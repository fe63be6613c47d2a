"""Which layers are local (sliding window) and which are global, in config.json and GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.architectures.checked_values import LARGEST_DEPTH
from luthier.architectures.settings import Reading
from luthier.errors import LuthierError

GLOBAL, LOCAL = "full_attention", "sliding_attention"


class LayeredConfig(Protocol):
    """The config fields that determine which layers are global."""

    @property
    def n_layers(self) -> int: ...
    @property
    def global_every(self) -> int: ...
    @property
    def global_layers(self) -> tuple[int, ...] | None: ...


def is_global(config: LayeredConfig, layer: int) -> bool:
    """Whether a layer, counted from 0, has global attention."""
    if config.global_layers is not None:
        return layer in config.global_layers
    return (layer + 1) % config.global_every == 0


def every(step: int, n_layers: int) -> tuple[int, ...]:
    """The global layers if every step-th layer is global."""
    return tuple(range(step - 1, n_layers, step))


def from_list(flags: list[bool], step: int) -> dict[str, Any]:
    """The config fields of a list with a flag per layer, True for global. step: preferred if it gives the same
    layers.
    """
    found = tuple(layer for layer, is_global in enumerate(flags) if is_global)
    return {"global_every": step, "global_layers": None if found == every(step, len(flags)) else found}


@dataclass(frozen=True)
class LayerTypes:
    """`layer_types` of config.json, or the step in older files. Comes after the depth.

    step: the default. name: of the older setting.
    """

    step: int
    name: str = "sliding_window_pattern"

    def read(self, reading: Reading) -> None:
        values, n_layers = reading.values, reading.fields["n_layers"]
        step = values.count(self.name, values.count(f"_{self.name}", self.step, LARGEST_DEPTH), LARGEST_DEPTH)
        listed = values.value("layer_types")
        if listed is None:
            listed = [GLOBAL if layer in every(step, n_layers) else LOCAL for layer in range(n_layers)]
        if not isinstance(listed, list) or not all(kind in (GLOBAL, LOCAL) for kind in listed):
            raise LuthierError(f"config.json: 'layer_types' must be a list of '{GLOBAL}' and '{LOCAL}'")
        if len(listed) != n_layers:
            raise LuthierError(f"config.json: 'layer_types' names {len(listed)} layers of {n_layers}")
        reading.fields.update(from_list([kind == GLOBAL for kind in listed], step))

    def write(self, config: LayeredConfig) -> Mapping[str, Any]:
        kinds = [GLOBAL if is_global(config, layer) else LOCAL for layer in range(config.n_layers)]
        return {"layer_types": kinds, self.name: config.global_every}


@dataclass(frozen=True)
class GGUFLayerTypes:
    """llama.cpp's pattern of local layers: a step, or a list with a flag per layer, True for local.

    step: llama.cpp's default. Comes after the depth.
    """

    section: str
    step: int

    def read(self, reading: Reading) -> None:
        name, n_layers = f"{self.section}.attention.sliding_window_pattern", reading.fields["n_layers"]
        value = reading.values.value(name)
        if not isinstance(value, list):
            reading.fields.update(global_every=reading.values.count(name, self.step, LARGEST_DEPTH), global_layers=None)
            return
        if len(value) != n_layers or not all(local in (0, 1) for local in value):
            raise LuthierError(f"the settings: '{name}' must say true or false for each of {n_layers} layers")
        reading.fields.update(from_list([not local for local in value], self.step))

    def write(self, config: LayeredConfig) -> Mapping[str, Any]:
        name = f"{self.section}.attention.sliding_window_pattern"
        if config.global_layers is None:
            return {name: config.global_every}
        return {name: [not is_global(config, layer) for layer in range(config.n_layers)]}
