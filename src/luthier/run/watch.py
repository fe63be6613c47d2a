"""What a person sees of a run while it goes, and what is written down: metrics, samples, a progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from luthier.errors import LuthierError
from luthier.files.atomic_file import replacing_file
from luthier.terminal.printing import live_bar, say, warn
from luthier.terminal.streams import is_terminal


class Watch:
    """The screen and the files of one run. On a terminal a bar moves; elsewhere there is a line at each look."""

    def __init__(self, metrics: Path, samples: Path, total_steps: int, done: int, tensorboard: Path | None) -> None:
        self.metrics, self.samples, self.total_steps = metrics, samples, total_steps
        self.bar: Progress | None = None
        self.open = ExitStack()
        self.started, self.first = time.monotonic(), done
        self.board = tensorboard_writer()(str(tensorboard)) if tensorboard is not None else None

    def __enter__(self) -> Self:
        if is_terminal("stdout"):
            columns = (
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = self.open.enter_context(live_bar("stdout", *columns))
            self.task = self.bar.add_task("training", total=self.total_steps, completed=self.first, loss="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.close()
        if self.board is not None:
            self.board.close()

    def stepped(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After each step: move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, loss=f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s")

    def looked(self, look: Mapping[str, Any]) -> None:
        """At each look: a line on the screen, a line in metrics.jsonl."""
        append(self.metrics, look)
        left = (time.monotonic() - self.started) / max(1, look["step"] - self.first) * (self.total_steps - look["step"])
        validation = f"  validation {look['validation_loss']:.4f}" if "validation_loss" in look else ""
        perplexity = f"  perplexity {look['perplexity']:,.1f}" if "perplexity" in look else ""
        speed = f"  {look['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in look else ""
        peak = f" ({look['peak_share']:.0%} of peak)" if "peak_share" in look else ""
        rate = f"  learning rate {look['learning_rate']:.2e}" if "learning_rate" in look else ""
        even = f"  busiest expert x{look['imbalance']:.2f}" if "imbalance" in look else ""
        eta = f"  {duration(left)} left" if self.first < look["step"] < self.total_steps else ""
        width = len(str(self.total_steps))
        say(
            f"step {look['step']:>{width}}/{self.total_steps}  epoch {look['epoch']:.2f}  "
            f"train {look['train_loss']:.4f}{validation}{perplexity}{rate}{speed}{peak}{even}{eta}"
        )
        if self.board is not None:
            for name, value in look.items():
                if isinstance(value, (int, float)) and name != "step":
                    self.board.add_scalar(name, value, look["step"])

    def sampled(self, sample: Mapping[str, Any]) -> None:
        """Show a sample and write it into samples.jsonl."""
        append(self.samples, sample)
        say(f"  | {' '.join(str(sample['text']).split())}")


class Nobody(Watch):
    """In the processes that neither print nor write."""

    def __init__(self, metrics: Path, samples: Path, total_steps: int, done: int, tensorboard: Path | None) -> None:
        self.bar = self.board = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stepped(self, step: int, loss: float, tokens_per_second: float) -> None:
        pass

    def looked(self, look: Mapping[str, Any]) -> None:
        pass

    def sampled(self, sample: Mapping[str, Any]) -> None:
        pass


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON; a number that is none becomes null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(clean, ensure_ascii=False) + "\n")


def parse_lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], list[bytes]]:
    """The lines of a .jsonl file: (those that are records with a step, as (line, record), and those that are not)."""
    records, bad = [], []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a line that a stop cut off, or that something else damaged
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int) and not isinstance(step, bool):
            records.append((line, record))
        else:
            bad.append(line)
    return records, bad


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records of a .jsonl file; lines that are none are left out."""
    return [record for _, record in parse_lines(path)[0]]


def forget_after(path: Path, step: int) -> None:
    """Drop the records after `step`: a run that resumes makes them again. Lines that are no records are kept aside."""
    if not path.exists():
        return
    records, bad = parse_lines(path)
    if bad:
        aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in bad)
        count = f"{len(bad)} lines are" if len(bad) > 1 else "a line is"
        warn(f"{path}: {count} no record (cut off or damaged); put into {aside.name}, the other records are kept")
    with replacing_file(path) as part:
        part.write_bytes(b"".join(line + b"\n" for line, record in records if record["step"] <= step))


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def tensorboard_writer() -> Any:
    """The class of TensorBoard's writer. A LuthierError says how to install it."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import
    except ImportError:
        raise LuthierError("TensorBoard is not installed: pip install 'luthier[tensorboard]'") from None
    return SummaryWriter
