"""Saving while training goes on: a copy in memory, written by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from torch import Tensor

from luthier.architectures import registry
from luthier.language_model import LanguageModel
from luthier.training.distributed import full_tensor

Job = Callable[[], object]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, in the processor's memory, gathered where they lie in several processes."""
    return {name: full_tensor(tensor.detach()).cpu().clone() for name, tensor in tensors.items()}


def snapshot(lm: LanguageModel) -> LanguageModel:
    """The model as it is now."""
    weights = lm.model.state_dict()
    if lm.model.tie_embeddings:
        del weights["output.weight"]  # the embedding's, once is enough
    model = registry.build_on_meta(lm.config)
    registry.assign_weights(model, copied(weights))
    return LanguageModel(model, lm.tokenizer, lm.config)


class Saver:
    """Writes in the background. One save at a time: the next waits for the one before, so memory stays bounded."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def submit(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in their order while the caller goes on. Raises what went wrong in the save before."""
        self.wait()
        if jobs:
            # a daemon: whoever presses Ctrl-C twice does not want to wait for it, and half a save is never taken
            self.thread = threading.Thread(target=self._work, args=(jobs,), name="saver", daemon=True)
            self.thread.start()

    def _work(self, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                job()
        except BaseException as error:  # handed to the thread that trains
            self.error = error

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def wait(self) -> None:
        """Until all is written. Raises what went wrong."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()
