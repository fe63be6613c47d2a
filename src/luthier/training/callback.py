"""What happens around the steps of a training: callbacks, each with its own state.

A loop over the steps of a trainer calls `begin`, then `before_step` and `after_step` around each step, and `end`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.training.loop import StepResult


class StepUndoneError(Exception):
    """Raised by a callback's `after_step`: the step does not count, and callbacks after it do not act on it."""


class Callback:
    """Something that happens around the steps of a training. Methods do nothing unless a subclass defines them."""

    def begin(self) -> None:
        """Before the first step of this process."""

    def before_step(self) -> None:
        """Before each step."""

    def after_step(self, result: StepResult) -> None:
        """After each step; the trainer already counts it."""

    def end(self) -> None:
        """After the last step."""

    def close(self) -> None:
        """Release what `begin` acquired, after an error or Ctrl-C too."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, in types of JSON. Names are unique among the callbacks of a run."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint, which holds the states of all callbacks together."""

    def go_back(self, state: Mapping[str, Any]) -> None:
        """Restore the state of an earlier checkpoint after a bad step, except for what must not be forgotten."""
        self.restore(state)


class Callbacks(Callback):
    """Several callbacks as one, in the order in which they act."""

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = callbacks

    def begin(self) -> None:
        for callback in self.callbacks:
            callback.begin()

    def before_step(self) -> None:
        for callback in self.callbacks:
            callback.before_step()

    def after_step(self, result: StepResult) -> None:
        for callback in self.callbacks:
            callback.after_step(result)

    def end(self) -> None:
        for callback in self.callbacks:
            callback.end()

    def close(self) -> None:
        for callback in self.callbacks:
            callback.close()

    def state(self) -> dict[str, Any]:
        return {name: value for callback in self.callbacks for name, value in callback.state().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.restore(state)

    def go_back(self, state: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.go_back(state)
