"""Time and memory of reading long prompts, up to the first new token.

    python benchmarks/long_prompts.py --json long_prompts.json
    python benchmarks/long_prompts.py SmolLM2-135M-Instruct.Q4_1.gguf --threads 1

Each model and length is a process of its own, so that memory is that of one prompt. "reading" is the most that it
takes beyond the opened model; "cache" the keys and values that are left. Two Llama 4 of 8 layers and random weights
differ in the 6 local ones alone: these see a chunk of 512 tokens, or all that came before, as the global layers do.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from limits import CPU, LIMITS
from luthier.architectures import llama4, registry
from luthier.generation.decoding_session import DecodingSession
from luthier.model.transformer import Transformer
from luthier.model_files import auto, quantized
from luthier.training.machine import keep_freed_memory
from models import smollm2

LENGTHS = (512, 2048, 8192)  # tokens
CHUNK = 512  # tokens


def llama_4(chunk: int, *, smoke: bool = False) -> Transformer:
    """Eight layers, two of them global; random weights."""
    width = 64 if smoke else 512
    config = llama4.Config(
        2048, max(LENGTHS), width, width, 4 * width, n_layers=4 if smoke else 8, n_heads=8, n_kv_heads=2, n_experts=4,
        moe_every=2, attention_chunk=chunk,
    )  # fmt: skip
    return registry.build(config, dtype=torch.bfloat16)


def models(path: Path, lengths: list[int], *, smoke: bool) -> dict[str, Callable[[], Transformer]]:
    """What reads, by its title."""
    chunk = CHUNK if not smoke else 32
    return {
        "the file, int4": lambda: quantized.read(path, "int4").model,
        "the file, bfloat16": lambda: auto.read(path, CPU, torch.bfloat16).model,
        "Llama 4, chunked": lambda: llama_4(chunk, smoke=smoke),
        "Llama 4, global": lambda: llama_4(max(lengths) + 1, smoke=smoke),
    }


@torch.inference_mode()
def read(model: Transformer, length: int) -> dict[str, float]:
    """Seconds and bytes of reading so many random tokens."""
    model.eval()
    vocab_size = model.embedding.num_embeddings
    prompt = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    DecodingSession(
        model, [prompt[:16]], 1, vocab_size=vocab_size
    ).logits()  # weights are mapped, and the step compiled
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what opening took and freed would hide what reading takes
    before = forget_peak()
    session = DecodingSession(model, [prompt], 1, vocab_size=vocab_size)
    start = time.perf_counter()
    session.logits()
    seconds = time.perf_counter() - start
    assert session.cache is not None
    buffers = [buffer for layer in session.cache.layers for buffer in layer.buffers or ()]
    return {
        "seconds": seconds,
        "reading_bytes": memory("VmHWM") - before,
        "cache_bytes": sum(buffer.nbytes for buffer in buffers),
        "peak_bytes": memory("VmHWM"),
    }


def memory(name: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> int:
    """Let the most memory so far be that of now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory("VmRSS")


def alone(title: str, length: int, given: argparse.Namespace) -> dict[str, float]:
    """A round in a process of its own."""
    command = [sys.executable, __file__, str(given.model), "--one", title, "--lengths", str(length)]
    command += ["--threads", str(given.threads), *(["--smoke"] if given.smoke else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return record


def race(given: argparse.Namespace) -> dict[str, Any]:
    """All models and lengths, in turns, and the machine's limits."""
    titles = [title for title in models(given.model, given.lengths, smoke=given.smoke) if given.only in title]
    found: dict[str, dict[int, list[dict[str, float]]]] = {t: {n: [] for n in given.lengths} for t in titles}
    limits: dict[str, list[float]] = {name: [] for name in LIMITS}
    loads = [os.getloadavg()[0]]
    torch.set_num_threads(given.threads)
    for _ in range(given.rounds):
        for length in given.lengths:
            for title in titles:
                found[title][length].append(alone(title, length, given))
        for name, measure in LIMITS.items():
            limits[name].append(measure())
        loads.append(os.getloadavg()[0])
    machine = {"processor": platform.processor(), "threads": given.threads, "torch": torch.__version__, "loads": loads}
    return {
        "file": given.model.name,
        "machine": machine,
        "rounds": given.rounds,
        "models": {
            title: {length: median(rounds) for length, rounds in lengths.items()} for title, lengths in found.items()
        },
        "limits": {name: statistics.median(values) for name, values in limits.items()},
    }


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def show(record: dict[str, Any]) -> None:
    """One table, the machine's limits last."""
    title = f"{record['file']} and Llama 4 on {record['machine']['threads']} threads; memory in MB"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("tokens", "seconds", "tokens/s", "reading", "cache", "in all"):
        table.add_column(column, justify="right")
    for name, lengths in record["models"].items():
        for length, each in lengths.items():
            sizes = (f"{each[size] / 1e6:,.0f}" for size in ("reading_bytes", "cache_bytes", "peak_bytes"))
            speed = int(length) / each["seconds"]
            table.add_row(name, f"{int(length):,}", f"{each['seconds']:.2f}", f"{speed:,.0f}", *sizes)
            name = ""
        table.add_section()
    for name, value in record["limits"].items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)


def main() -> None:
    """Read the options, race, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens; 512, 2048 and 8192 unless given")
    parser.add_argument("--only", default="", help="models with these words in their titles, instead of all")
    parser.add_argument("--smoke", action="store_true", help="short prompts and one round: does it run?")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a process of its own is asked to do
    given = parser.parse_args()
    given.model = given.model or smollm2()
    given.lengths = given.lengths or ([48, 96] if given.smoke else list(LENGTHS))
    if given.smoke:
        given.rounds = 1
    if given.one:
        torch.set_num_threads(given.threads)
        keep_freed_memory()
        model = models(given.model, given.lengths, smoke=given.smoke)[given.one]()
        print(json.dumps(read(model, *given.lengths)))
        return
    record = race(given)
    show(record)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
