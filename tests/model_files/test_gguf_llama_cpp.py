"""What Luthier writes speaks in real llama.cpp: the same tokens, with the same probabilities."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf_models import CONFIGS, random_model

from luthier.model_files import gguf
from luthier.model_files.weights import LoadedModel
from luthier.tokenizers.core.train import train_bpe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp"),
]
# a token for each character of ASCII: llama.cpp is silent about tokens that are parts of a character
ASCII = ["Ċ", "Ġ", *map(chr, range(33, 126)), "ab", "<|end|>"]
SETTINGS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ASCII,
    "tokenizer.ggml.token_type": [1] * 96 + [3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 96,
    "tokenizer.ggml.add_bos_token": False,
}
GELU = ("gpt2", "gptneox", "gemma")
PROMPT = [5, 17, 3, 80, 44, 9, 61, 2]
STEPS = 12


def llama_cpp(path: Path, prompt: str | list[int], **request: object) -> list[tuple[int, float]]:
    """The tokens that llama.cpp writes, always the likeliest, with their log-probabilities."""
    asked = {"prompt": prompt, "temperature": 0, "n_probs": 1, "ignore_eos": True, "n_ctx": 64, **request}
    script = Path(__file__).with_name("llama_cpp.py")
    done = subprocess.run([sys.executable, script, path], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return [(token["id"], token["logprob"]) for token in answer["choices"][0]["logprobs"]["content"]]


@pytest.fixture
def characters(monkeypatch):
    """Stands for the tokenizer whose settings are the above."""
    monkeypatch.setattr(gguf, "to_gguf", lambda tokenizer, vocab_size: SETTINGS)
    return "a tokenizer"


@torch.no_grad()
def ours(model: torch.nn.Module, prompt: list[int], steps: int) -> list[tuple[int, float]]:
    """The same from our model."""
    ids, found = list(prompt), []
    for _ in range(steps):
        logits = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        found.append((int(logits.argmax()), float(logits.max())))
        ids.append(found[-1][0])
    return found


def near(tolerance: float, expected: list[tuple[int, float]]) -> list[tuple[int, object]]:
    return [(token, pytest.approx(logprob, abs=tolerance)) for token, logprob in expected]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_of_ours_writes_the_same_in_llama_cpp(kind, characters, tmp_path):
    model = random_model(CONFIGS[kind])
    gguf.write(tmp_path / "a.gguf", LoadedModel(model, CONFIGS[kind], characters))
    tolerance = 5e-3 if kind.startswith(GELU) else 1e-5  # its GELU is a table of 16 bits
    assert llama_cpp(tmp_path / "a.gguf", PROMPT, n_predict=STEPS) == near(tolerance, ours(model, PROMPT, STEPS))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_llama_cpp_opens_each_number_type(kind, characters, tmp_path):
    """Within what its own rounding of the inputs to 8 or 16 bits makes of it."""
    config = CONFIGS["llama4"]
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, characters), quantize=kind)
    model = gguf.read(tmp_path / "a.gguf", torch.device("cpu"), torch.float32).model.eval()
    assert llama_cpp(tmp_path / "a.gguf", PROMPT, n_predict=1) == near(0.1, ours(model, PROMPT, 1))


def test_llama_cpp_reads_a_text_as_we_do(tmp_path):
    tokenizer = train_bpe(["the cat sat on the mat. " * 20, "un café, s'il vous plaît"], vocab_size=290)
    config = replace(CONFIGS["llama"], vocab_size=tokenizer.vocab_size)
    model = random_model(config)
    gguf.write(tmp_path / "a.gguf", LoadedModel(model, config, tokenizer))
    text = "the cat's café  sat"
    assert llama_cpp(tmp_path / "a.gguf", text, n_predict=1) == near(1e-5, ours(model, tokenizer.encode(text), 1))
