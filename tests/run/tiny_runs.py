"""Runs of a few steps: a text of made-up words, and models of a thousand parameters."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from luthier.run.plan import Plan, resolve

SYLLABLES = ["ka", "lo", "mi", "té", "ru", "san", "bel", "dor", "in", "a"]
LLAMA = {"dim": 8, "hidden_dim": 12, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "context_length": 16}
LLAMA4 = {**LLAMA, "n_layers": 2, "n_experts": 3, "attention_chunk": 8}
QWEN3_MOE = {**LLAMA, "n_layers": 2, "n_experts": 3}
GPT2 = {"dim": 8, "n_layers": 1, "n_heads": 2, "context_length": 16, "dropout": 0.2}
SIZES = {
    "llama-nano": LLAMA,
    "llama4-nano": LLAMA4,
    "gpt2-nano": GPT2,
    "qwen3-nano": LLAMA,
    "qwen3moe-nano": QWEN3_MOE,
}
OPTIONS: dict[str, Any] = {
    "tokenizer": "characters", "steps": 8, "batch_size": 2, "eval_interval": 3, "eval_batches": 2,
    "sample_interval": 4, "sample_tokens": 5, "precision": "float32", "compile": "no", "learning_rate": 1e-2,
}  # fmt: skip
CLOCK = {"seconds", "tokens_per_second", "peak_share", "peak_memory"}  # what two equal runs do not share


def words(count: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(count))


def plan(book: Path, preset: str = "llama-nano", model: dict[str, Any] | None = None, **options: Any) -> Plan:
    sizes = SIZES[preset]
    chosen = {**OPTIONS, "preset": preset, **options}
    if options.get("epochs"):
        chosen["steps"] = 0
    return resolve((str(book),), options=chosen, model={**sizes, **(model or {})})


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file, without what a clock says."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
