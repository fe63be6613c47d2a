"""Sliding-window layers: the fields `window` and `global_layers`, their settings in files, and masks.

Layers are counted from 0. A window includes the query's own token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.architectures.checked_values import LARGEST_CONTEXT
from luthier.architectures.gguf_metadata import LayerIndices
from luthier.architectures.settings import Reading
from luthier.errors import LuthierError
from luthier.model.mask import MaskRule, SlidingWindow, causal

WINDOW, GLOBAL = "sliding_attention", "full_attention"


class Windowed(Protocol):
    """The config fields of sliding windows."""

    @property
    def n_layers(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def global_layers(self) -> tuple[int, ...] | None: ...


def has_window(config: Windowed, layer: int) -> bool:
    """Whether a layer has a sliding window."""
    return config.window is not None and layer not in (config.global_layers or ())


def mask_of(config: Windowed, layer: int) -> MaskRule:
    """The mask rule of a layer."""
    return SlidingWindow(config.window) if config.window is not None and has_window(config, layer) else causal


def fields_of(window: int | None, is_global: Callable[[int], bool], n_layers: int) -> dict[str, Any]:
    """The fields in normal form: no window if no layer has one, None if no layer is global."""
    layers = tuple(filter(is_global, range(n_layers)))
    if window is None or len(layers) == n_layers:
        return {"window": None, "global_layers": None}
    return {"window": window, "global_layers": layers or None}


def no_layer(layer: int) -> bool:
    """Predicate for `fields_of`: no layer is global."""
    return False


def read_window(reading: Reading, default: int | None) -> int | None:
    """`sliding_window`, where null means none. default: for a missing setting."""
    values = reading.values
    if "sliding_window" in values.nulls or (default is None and "sliding_window" not in values.values):
        values.ignore("sliding_window")
        return None
    return values.count("sliding_window", default, most=LARGEST_CONTEXT)


def read_layer_types(reading: Reading, default: Callable[[int], bool]) -> Callable[[int], bool]:
    """Whether a layer is global, by `layer_types`. default: for a missing setting."""
    types, n_layers = reading.values.value("layer_types"), reading.fields["n_layers"]
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != n_layers or not all(kind in (WINDOW, GLOBAL) for kind in types):
        raise LuthierError(
            f"{reading.values.source}: 'layer_types' must be {n_layers} times {WINDOW!r} or {GLOBAL!r}, it is "
            f"{types!r:.80}"
        )
    return lambda layer: types[layer] == GLOBAL


def layer_types(config: Windowed) -> list[str]:
    """`layer_types` of a config."""
    return [WINDOW if has_window(config, layer) else GLOBAL for layer in range(config.n_layers)]


@dataclass(frozen=True)
class OneWindow:
    """`sliding_window` in config.json, for all layers. default: that of `transformers`."""

    default: int | None = None

    def read(self, reading: Reading) -> None:
        window = read_window(reading, self.default)
        reading.fields.update(fields_of(window, no_layer, reading.fields["n_layers"]))

    def write(self, config: Windowed) -> Mapping[str, Any]:
        if config.window is not None and config.global_layers:
            raise LuthierError("this class of transformers has one window for all layers: write the model as gguf")
        return {"sliding_window": config.window}


@dataclass(frozen=True)
class SwitchedWindows:
    """Settings in config.json: `use_sliding_window`, `sliding_window`, `max_window_layers` and `layer_types` (Qwen).

    by_layer: whether the last two exist; otherwise the window is for all layers.
    """

    by_layer: bool = True

    def read(self, reading: Reading) -> None:
        values, n_layers = reading.values, reading.fields["n_layers"]
        used = values.flag("use_sliding_window", False)
        window = read_window(reading, 4096)
        first = values.finite("max_window_layers", 28) if self.by_layer else 0
        is_global = read_layer_types(reading, lambda layer: layer < first) if self.by_layer else no_layer
        values.ignore("max_window_layers")  # without effect with a single window
        reading.fields.update(fields_of(window if used else None, is_global, n_layers))

    def write(self, config: Windowed) -> Mapping[str, Any]:
        switched = {"use_sliding_window": config.window is not None, "sliding_window": config.window}
        if not self.by_layer:
            return {**switched, **OneWindow().write(config)}
        first = next((layer for layer in range(config.n_layers) if has_window(config, layer)), config.n_layers)
        return {**switched, "max_window_layers": first, "layer_types": layer_types(config)}


@dataclass(frozen=True)
class LuthierWindows:
    """Luthier's own GGUF keys, for architectures without windows in llama.cpp."""

    layers = LayerIndices("luthier.global_layers", "global_layers")

    def read(self, reading: Reading) -> None:
        values, fields = reading.values, reading.fields
        found = values.values.get("luthier.window")
        fields["window"] = None if found is None else values.count("luthier.window", most=LARGEST_CONTEXT)
        self.layers.read(reading)

    def write(self, config: Windowed) -> Mapping[str, Any]:
        return {} if config.window is None else {"luthier.window": config.window, **self.layers.write(config)}


def caveats(config: Windowed) -> list[str]:
    """A message if the model has a window, which llama.cpp ignores."""
    if config.window is None or config.window >= config.context_length:
        return []
    return [f"llama.cpp has no windows for this architecture: texts over {config.window} tokens differ"]
