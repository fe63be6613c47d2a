"""Training speed and memory, beside the book's code, `transformers` and the machine's own limits.

    python benchmarks/train.py --json train.json

Four races: the course's GPT-2 (batch 2 x 256) with dropout 0.1, the same without, GPT-2 of 124 M parameters (batch
2 x 1024) without, and a Llama 4 of 16 experts. "of peak" is the share of the bfloat16 matrix-product peak that a
contestant makes use of: tokens/s times the FLOPs of a training step for a token, which are 6 for each weight that
multiplies it and 12 T H D a layer for attention (arXiv 2204.02311, appendix B), however it computes them.

Each contestant trains in a process of its own, so that its peak memory is its own, and they take turns: a round is a
few steps of each, one after the other, while the others wait. With 2,048 tokens they would not fit into memory
together: there each runs all its rounds alone. A contestant's speed is the median of its rounds. Preparing and
compiling is not counted in the speed (it is shown beside).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from child import Child
from contestants import CONTESTANTS, Spec
from limits import BFLOAT16_PRODUCTS, LIMITS
from luthier.architectures import registry
from luthier.training.flops import flops_per_token

TOGETHER = 1024  # tokens a step up to which all contestants fit into memory at once
SCRIPT = Path(__file__).with_name("contestants.py")


@dataclass
class Racer:
    """A contestant in its process, and what it has shown."""

    name: str
    spec: Spec
    threads: int
    rounds: list[float] = field(default_factory=list)  # tokens/s
    peak_memory: int = 0  # bytes

    def start(self) -> None:
        """Load, compile, warm up."""
        self.child = Child(SCRIPT, self.name, json.dumps(asdict(self.spec)), threads=self.threads)
        ready = self.child.listen()
        self.parameters, self.preparing = ready["parameters"], ready.get("preparing", 0.0)

    def race(self, steps: int) -> None:
        """A round."""
        result = self.child.ask(str(steps))
        self.rounds.append(self.spec.tokens / statistics.median(result["seconds"]))
        self.peak_memory = result["peak_memory"]


def race(title: str, names: Sequence[str], spec: Spec, rounds: int, steps: int, threads: int) -> dict[str, Any]:
    """All rounds of one race. Returns its record, by contestant. Those who need much memory run one after the other."""
    torch.set_num_threads(threads)
    racers = [Racer(name, spec, threads) for name in names]
    limits: dict[str, list[float]] = {name: [] for name in LIMITS}
    for group in [[racer] for racer in racers] if spec.tokens > TOGETHER else [racers]:
        try:
            for racer in group:
                racer.start()
            for _ in range(rounds):
                for racer in group:
                    racer.race(steps)
                for name, measure in LIMITS.items():
                    limits[name].append(measure())
        finally:
            for racer in group:
                if hasattr(racer, "child"):
                    racer.child.stop()
    record: dict[str, Any] = {"title": title, "spec": asdict(spec), "rounds": rounds, "steps": steps}
    record["limits"] = {name: statistics.median(found) for name, found in limits.items()}
    flops = flops_per_token(registry.build_on_meta(spec.config()), spec.context_length)
    record["flops_per_token"] = flops
    record["contestants"] = {}
    for racer in racers:
        speed = statistics.median(racer.rounds)
        record["contestants"][racer.name] = {
            "tokens_per_second": speed, "peak_share": speed * flops / record["limits"][BFLOAT16_PRODUCTS] / 1e9,
            "rounds": racer.rounds, "peak_memory": racer.peak_memory, "parameters": racer.parameters,
            "preparing_seconds": racer.preparing,
        }  # fmt: skip
    ours = record["contestants"]["luthier"]["tokens_per_second"]
    record["luthier_faster_by"] = {
        name: ours / found["tokens_per_second"] for name, found in record["contestants"].items() if name != "luthier"
    }
    return record


def show(races: list[dict[str, Any]]) -> None:
    """One table; gain: by how much Luthier is faster; memory: at its peak. The machine's limits last."""
    table = Table(title="Training, float32 weights and AdamW, on CPU", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("tokens/s", "gain", "of peak", "memory", "start"):
        table.add_column(column, justify="right", no_wrap=True)
    for record in races:
        parameters = record["contestants"]["luthier"]["parameters"]
        table.add_row(f"[bold]{record['title']} ({parameters / 1e6:.0f} M)")
        for name, found in record["contestants"].items():
            factor = record["luthier_faster_by"].get(name)
            table.add_row(
                f"  {name}", f"{found['tokens_per_second']:,.0f}",
                f"{factor:.2f} x" if factor else "", f"{found['peak_share']:.2f}",
                f"{found['peak_memory'] / 1e9:.2f} GB", f"{found['preparing_seconds']:.0f} s",
            )  # fmt: skip
        table.add_section()
    for name in LIMITS:
        table.add_row(name, f"{statistics.median(record['limits'][name] for record in races):,.0f}")
    Console().print(table)


def main() -> None:
    """Read the options, race, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["dropout", "plain", "2048", "experts"], help="one race instead of all four")
    parser.add_argument("--smoke", action="store_true", help="tiny models and one round: does it run?")
    arguments = parser.parse_args()
    rounds, steps = (1, 1) if arguments.smoke else (arguments.rounds, arguments.steps)
    size = {"tiny": True, "context_length": 16} if arguments.smoke else {}
    long = size or {"context_length": 1024}
    everyone = ("luthier", "book", "transformers")
    plans = {
        "dropout": ("GPT-2, dropout 0.1", everyone, Spec("gpt2-course", dropout=0.1, **size)),
        "plain": ("GPT-2, no dropout", everyone, Spec("gpt2-course", **size)),
        "2048": ("GPT-2, 2,048 tokens", tuple(CONTESTANTS), Spec("gpt2-124m", **long)),
        "experts": ("Llama 4, 16 experts", ("luthier", "transformers"), Spec("llama4", **size)),
    }
    if arguments.smoke:
        del plans["dropout"]
    races = [
        race(*plan, rounds, steps, arguments.threads)
        for key, plan in plans.items()
        if arguments.only in (None, key)
    ]  # fmt: skip
    show(races)
    if arguments.json:
        machine = {"processor": platform.processor(), "threads": arguments.threads, "torch": torch.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "races": races}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
