"""What balancing does to the experts of a small Llama 4: the same run with a bias, an auxiliary loss, and without.

    python benchmarks/expert_load.py book.txt --steps 300 --out runs/experts

Writes three runs, and OUT/expert_load.png and .json: the load of the busiest expert over the mean load (1 is even,
n_experts is collapse), and how many experts get less than a tenth of their share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from luthier.run.json_lines import read_lines
from luthier.run.plan import resolve
from luthier.run.train import start

WAYS = {"bias": "#0072B2", "auxiliary": "#009E73", "none": "#D55E00"}
STARVED = 0.1  # of an even share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["python-docs"])
    parser.add_argument("--preset", default="llama4-nano")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/experts"))
    given = parser.parse_args()
    results = {}
    for way in WAYS:
        options = {
            "preset": given.preset, "tokenizer": "characters", "steps": given.steps, "balance": way,
            "batch_size": given.batch_size,
            "learning_rate": 3e-3, "eval_interval": max(1, given.steps // 30), "compile": "no",
            "sample_interval": given.steps,
        }  # fmt: skip
        plan = resolve(tuple(given.data), options=options, model={"n_experts": given.experts})
        folder = start(plan, given.out / way)
        results[way] = [summary(look) for look in read_lines(folder / "metrics.jsonl") if "expert_loads" in look]
    (given.out / "expert_load.json").write_text(json.dumps(results, indent=1))
    draw(results, given.out / "expert_load.png", f"{given.preset}, {given.experts} experts")
    show(results)


def summary(look: dict) -> dict:
    """One look: step, loss, the busiest expert, the starved ones."""
    loads = [load * len(layer) for layer in look["expert_loads"] for load in layer]
    return {
        "step": look["step"],
        "validation_loss": look["validation_loss"],
        "busiest": max(loads),
        "starved": sum(load < STARVED for load in loads),
        "experts": len(loads),
    }


def draw(results: dict[str, list[dict]], path: Path, title: str) -> None:
    """Two panels: the busiest expert, and the loss."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way, looks in results.items():
        steps = [look["step"] for look in looks]
        left.plot(steps, [look["busiest"] for look in looks], color=WAYS[way], label=way)
        right.plot(steps, [look["validation_loss"] for look in looks], color=WAYS[way], label=way)
    left.set(xlabel="steps", ylabel="busiest expert / mean load (1 = even)", ylim=(0, None))
    right.set(xlabel="steps", ylabel="validation loss (nats a token)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    left.legend(title="balance", frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def show(results: dict[str, list[dict]]) -> None:
    """The last look of each way."""
    table = Table("balance", "busiest expert x mean", "starved experts", "validation loss")
    for way, looks in results.items():
        last = looks[-1]
        table.add_row(
            way, f"{last['busiest']:.2f}", f"{last['starved']} of {last['experts']}", f"{last['validation_loss']:.4f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
