"""The programs of benchmarks/generate.py, each alone in its process: `python speakers.py NAME FILE THREADS`.

A program opens a GGUF file, and then answers each line of JSON on its standard input, {"task", "prompts", "new"}, with
a line: the seconds that the task took, and the most memory that it has held.

read: read a prompt, up to the first new token. decode: go on with prompts already read, all at once, by `new` tokens
each, always the likeliest. say: both, as a person meets it. (An end token ends nothing here.) A name that begins with
"llama-bench:" is the path of that program of llama.cpp, which measures itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from child import answer

Prompts = list[list[int]]
Timed = Callable[[str, Prompts, int], float]


def luthier(path: str, kind: str, *, guess: bool = True) -> Timed:
    """Luthier with weights of a kind."""
    import torch

    from luthier.generation import prompt_lookup
    from luthier.generation.decoding_session import DecodingSession
    from luthier.generation.generate import generate
    from luthier.generation.settings import GenerationSettings
    from luthier.model_files import auto, quantized
    from luthier.training.machine import keep_freed_memory

    keep_freed_memory()
    if kind == "bfloat16":
        model, config, tokenizer = auto.read(Path(path), torch.device("cpu"), None)
    else:
        model, config, tokenizer = quantized.read(Path(path), kind)
    model.eval()
    assert tokenizer is not None
    tokenizer.eos_ids = ()
    if not guess:
        prompt_lookup.is_worthwhile = lambda session, rows: False

    @torch.inference_mode()
    def timed(task: str, prompts: Prompts, new: int) -> float:
        if task == "say":
            start = time.perf_counter()
            generate(model, tokenizer, prompts, GenerationSettings(new, temperature=0), config.context_length)
            return time.perf_counter() - start
        session = DecodingSession(model, prompts, new, vocab_size=config.vocab_size)
        start = time.perf_counter()
        tokens = session.logits().argmax(-1)
        if task == "read":
            return time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(new):
            session.append(tokens)
            tokens = session.logits().argmax(-1)
        return time.perf_counter() - start

    return timed


def llama_cpp(path: str, threads: int) -> Timed:
    """llama.cpp by its own clock. One prompt at a time."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 4096, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def timed(task: str, prompts: Prompts, new: int) -> float:
        [prompt] = prompts
        request = {"prompt": prompt, "temperature": 0, "ignore_eos": True, "cache_prompt": False, "n_predict": new + 1}
        times: dict[str, float] = server.handle_completions(request)["timings"]
        seconds = {"read": times["prompt_ms"], "decode": times["predicted_ms"] * new / times["predicted_n"]}
        return seconds.get(task, times["prompt_ms"] + times["predicted_ms"]) / 1000

    return timed


def llama_bench(program: str, path: str, threads: int) -> Timed:
    """llama.cpp's own benchmark, of a build for this machine: random tokens, of which the model knows no more."""

    def timed(task: str, prompts: Prompts, new: int) -> float:
        [prompt] = prompts
        what = (
            ["-p", str(len(prompt)), "-n", "0"]
            if task == "read"
            else ["-p", "0", "-n", str(new), "-d", str(len(prompt))]
        )
        command = [program, "-m", path, "-t", str(threads), "-r", "1", "-o", "json", "-ngl", "0", *what]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        [found] = json.loads(made)
        return float(found["avg_ns"]) / 1e9

    return timed


def transformers(path: str, *, compiled: bool) -> Timed:
    """Hugging Face's transformers in bfloat16; the file's numbers unpacked."""
    import torch
    import transformers as peer

    file = Path(path)
    model: Any = peer.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    more: dict[str, Any] = {}
    if compiled:  # a cache of one size, so that a graph serves every token
        model.forward = torch.compile(model.forward)
        more = {"cache_implementation": "static", "disable_compile": True}

    @torch.inference_mode()
    def say(prompts: Prompts, new: int) -> float:
        ids = torch.tensor(prompts)
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0, **more,
        )  # fmt: skip
        return time.perf_counter() - start

    def timed(task: str, prompts: Prompts, new: int) -> float:
        first = say(prompts, 1)
        return first if task == "read" else say(prompts, new + 1) - (first if task == "decode" else 0)

    return timed


def speaker(name: str, path: str, threads: int) -> Timed:
    """The one of a name."""
    program, _, rest = name.partition(", ")
    if program.startswith("llama-bench:"):
        return llama_bench(program.removeprefix("llama-bench:"), path, threads)
    if program == "llama.cpp":
        return llama_cpp(path, threads)
    if program == "transformers":
        return transformers(path, compiled=rest == "compiled")
    return luthier(path, program.removeprefix("luthier "), guess=rest != "no guesses")


def main() -> None:
    """Get ready, warm up, then do what each line says."""
    name, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    began = time.perf_counter()
    timed = speaker(name, path, threads)
    timed("say", [[1, 2, 3, 4]], 2)
    answer({"ready": True, "preparing": time.perf_counter() - began})
    for line in sys.stdin:
        request = json.loads(line)
        answer({"seconds": timed(request["task"], request["prompts"], request["new"]), "peak_memory": peak_memory()})


def peak_memory() -> int:
    """The most bytes that this process has held, or a program that it ran."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process had before it became this one: its parent's memory
        [own] = (int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, children) * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
