"""A table of the model families: what a short training reaches, and that its result agrees with the references.

    python benchmarks/families.py tiny-shakespeare.txt --out docs/families-trained.md
    python benchmarks/families.py tiny-shakespeare.txt --only qwen3 gemma3 --steps 50

For each family, its smallest preset is trained by characters, and the trained run is compared with `transformers` on
the run's own folder, and with llama.cpp on the GGUF file that `luthier convert` writes of it in F32: the largest
difference of log-probabilities, of all next tokens of a text in one, of the greedy tokens after a prompt in the other.
Families are trained for the same number of steps with the same settings, not for the same time: losses show that each
learns, they do not rank families.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.language_model import LanguageModel, load
from luthier.native.program import unsupported_reason

GREEDY_TOKENS = 24
CONTEXT = 256  # of llama.cpp, in tokens


@dataclass(frozen=True)
class Row:
    """What is known of one family."""

    family: str
    parameters: int  # of the trained preset
    loss: float  # validation loss after training, nats per character
    transformers: float | str  # largest difference of log-probabilities, or why there is none
    llama_cpp: float | str
    compiled: str  # what the compiled step says


def main() -> None:
    """Measure the families that are asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="text to train on")
    parser.add_argument(
        "--only", nargs="+", metavar="FAMILY", default=[name for name in registry.FAMILIES if name != "composed"]
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="Markdown file to write; standard output unless given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in asked.only:
            rows.append(measure(name, asked.text, asked.steps, Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
    page = "\n".join(markdown(rows, asked.text, asked.steps)) + "\n"
    if asked.out is None:
        print(page, end="")
    else:
        asked.out.write_text(page, encoding="utf-8")


def measure(name: str, text: str, steps: int, folder: Path) -> Row:
    """Train the smallest preset of a family, and compare it with the references."""
    family = registry.FAMILIES[name]
    nano = next(size for size in family.sizes if size.endswith("-nano"))
    run, prompt = folder / name, Path(text).read_text(encoding="utf-8")[:200]
    luthier(
        "train", text, "--preset", nano, "--tokenizer", "characters", "--steps", str(steps), "--batch-size", "8",
        "--eval-interval", str(steps), "--compile", "no", "--out", str(run),
    )  # fmt: skip
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lm = load(run, dtype=torch.float32)
    row = Row(
        name,
        registry.count_parameters(lm.config)[0],
        records[-1]["validation_loss"],
        beside_transformers(lm, run, prompt),
        beside_llama_cpp(lm, run, prompt[:40], folder),
        unsupported_reason(load(run, dtype=torch.bfloat16).model) or "yes",
    )
    shutil.rmtree(run)
    return row


def luthier(*arguments: str) -> None:
    """Run a verb; its errors end this program."""
    done = subprocess.run([sys.executable, "-m", "luthier", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"luthier {' '.join(arguments)}: {done.stderr.strip()[-500:]}")


@torch.no_grad()
def log_probabilities(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Of every next token, (T, V) float32."""
    logits: torch.Tensor = lm.model(torch.tensor([ids]))
    return logits[0].float().log_softmax(-1)


@torch.no_grad()
def beside_transformers(lm: LanguageModel, run: Path, text: str) -> float | str:
    """The largest difference over the next tokens of a text, from the class that AutoModelForCausalLM opens."""
    from transformers import AutoModelForCausalLM

    try:
        reference = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32, attn_implementation="eager").eval()
    except (ValueError, KeyError, ImportError) as error:
        return f"not opened: {str(error).splitlines()[0][:60]}"
    ids = lm.tokenizer.encode(text)[: min(lm.config.context_length, 128)]
    expected = reference(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return float((log_probabilities(lm, ids) - expected).abs().max())


def beside_llama_cpp(lm: LanguageModel, run: Path, prompt: str, folder: Path) -> float | str:
    """The largest difference over greedy tokens; a difference of tokens is said. llama.cpp has a process of its own."""
    file = folder / "model.gguf"
    try:
        luthier("convert", str(run), str(file), "--to", "gguf", "--quantize", "F32")
    except SystemExit as error:
        if "gguf is for" in str(error):
            return "no GGUF"
        raise
    request = {"prompt": prompt, "temperature": 0, "n_probs": 1, "ignore_eos": True, "n_predict": GREEDY_TOKENS}
    done = subprocess.run(
        [sys.executable, "-c", LLAMA_CPP, str(file), str(CONTEXT)], input=json.dumps(request), capture_output=True,
        text=True,
    )  # fmt: skip
    file.unlink()
    if done.returncode != 0:
        return "not opened"
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    found = [(token["id"], token["logprob"]) for token in answer["choices"][0]["logprobs"]["content"]]
    return compare_greedy(lm, prompt, found)


def compare_greedy(lm: LanguageModel, prompt: str, found: list[tuple[int, float]]) -> float | str:
    """The largest difference of the log-probabilities of a greedy continuation."""
    ids, largest = lm.tokenizer.encode(prompt), 0.0
    for number, (token, logprob) in enumerate(found):
        expected = log_probabilities(lm, ids)[-1]
        if int(expected.argmax()) != token:
            return f"another token at {number}"
        largest = max(largest, abs(float(expected[token]) - logprob))
        ids.append(token)
    return largest


LLAMA_CPP = """
import json, sys, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel = sys.argv[1], int(sys.argv[2]), 1
settings.n_gpu_layers, settings.warmup = 0, False
settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it would round to F16
print("\\n" + json.dumps(xllamacpp.Server(settings).handle_completions(json.load(sys.stdin))))
"""


def markdown(rows: list[Row], text: str, steps: int) -> Iterator[str]:
    """The page."""
    yield "# Families, trained"
    yield ""
    yield f"Made by `python benchmarks/families.py {Path(text).name} --steps {steps} --out docs/families-trained.md`."
    yield "What the families are, their sizes and their differences on tiny random models: [families.md](families.md)."
    yield ""
    yield f"The smallest preset of each, trained {steps} steps of 8 sequences by characters on the same text with the"
    yield "default settings. Differences are the largest of log-probabilities in float32: from `transformers` over the"
    yield f"next tokens of a text, from llama.cpp over {GREEDY_TOKENS} greedy tokens. Losses show that each learns;"
    yield "they do not rank families, since no setting was tuned for one. Generation uses the compiled step (bfloat16,"
    yield "8 and 4 bits) where the last column says yes; PyTorch computes the others."
    yield ""
    yield "| family | parameters | validation loss | from transformers | from llama.cpp | compiled step |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        differences = " | ".join(figure(value) for value in (row.transformers, row.llama_cpp))
        yield f"| {row.family} | {row.parameters:,} | {row.loss:.3f} | {differences} | {row.compiled} |"


def figure(value: Any) -> str:
    """A difference with one digit, or the words in its place."""
    return f"{value:.0e}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
