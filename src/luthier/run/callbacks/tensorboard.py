"""The metrics of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.training.callback import Callback


class TensorBoard(Callback):
    """Writes each evaluation into a folder of event files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def begin(self) -> None:
        self.writer = tensorboard_writer()(str(self.folder))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """A scalar for each number."""
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(name, value, metrics["step"])

    def sampled(self, sample: Mapping[str, Any]) -> None:
        """Samples are in samples.jsonl only."""


def tensorboard_writer() -> Any:
    """The class of TensorBoard's writer. Raises a LuthierError that says how to install it."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import
    except ImportError:
        raise LuthierError("TensorBoard is not installed: pip install 'luthier[tensorboard]'") from None
    return SummaryWriter
