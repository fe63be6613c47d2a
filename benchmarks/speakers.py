"""Those who speak in benchmarks/generate.py, each alone in its process: `python speakers.py NAME FILE THREADS`.

A speaker opens a GGUF file, and then answers each line of JSON on its standard input, {"task", "prompts", "new"}, with
a line: the seconds that the task took, and the most memory that it has held.

read: read a prompt, up to the first new token. decode: go on with prompts already read, all at once, by `new` tokens
each, always the likeliest. say: both, as a person meets it. (An end token ends nothing here.)
"""

from __future__ import annotations

import json
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

    from luthier.generation import look_up
    from luthier.generation.generate import generate
    from luthier.generation.reader import Reader
    from luthier.generation.settings import Settings
    from luthier.model_files import kinds, quantized
    from luthier.training.machine import keep_freed_memory

    keep_freed_memory()
    if kind == "bfloat16":
        model, config, tokenizer = kinds.read(Path(path), torch.device("cpu"), None)
    else:
        model, config, tokenizer = quantized.read(Path(path), kind)
    model.eval()
    assert tokenizer is not None
    tokenizer.eos_ids = ()
    if not guess:
        look_up.pays = lambda reader, rows: False

    @torch.inference_mode()
    def timed(task: str, prompts: Prompts, new: int) -> float:
        if task == "say":
            start = time.perf_counter()
            generate(model, tokenizer, prompts, Settings(new, temperature=0), config.context_length)
            return time.perf_counter() - start
        reader = Reader(model, prompts, new, vocab_size=config.vocab_size)
        start = time.perf_counter()
        tokens = reader.logits().argmax(-1)
        if task == "read":
            return time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(new):
            reader.append(tokens)
            tokens = reader.logits().argmax(-1)
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


def transformers(path: str) -> Timed:
    """Hugging Face's transformers in bfloat16; the file's numbers unpacked."""
    import torch
    import transformers as peer

    file = Path(path)
    model: Any = peer.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)

    @torch.inference_mode()
    def say(prompts: Prompts, new: int) -> float:
        ids = torch.tensor(prompts)
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        return time.perf_counter() - start

    def timed(task: str, prompts: Prompts, new: int) -> float:
        first = say(prompts, 1)
        return first if task == "read" else say(prompts, new + 1) - (first if task == "decode" else 0)

    return timed


def speaker(name: str, path: str, threads: int) -> Timed:
    """The one of a name."""
    if name == "llama.cpp":
        return llama_cpp(path, threads)
    if name == "transformers":
        return transformers(path)
    kind, _, rest = name.removeprefix("luthier ").partition(", ")
    return luthier(path, kind, guess=rest != "no guesses")


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
    """The most bytes that this process has held."""
    import torch

    from luthier.training.machine import peak_memory

    return peak_memory(torch.device("cpu"))


if __name__ == "__main__":
    main()
