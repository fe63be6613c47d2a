"""What `luthier train` made speaks elsewhere: in transformers as it is, and in llama.cpp after `luthier convert`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import plan

import luthier
from luthier.cli.main import main
from luthier.run import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::luthier.errors.Remark")]
LLAMA_CPP = Path(__file__).parent.parent / "model_files" / "llama_cpp.py"
WIDE = {"dim": 32, "hidden_dim": 64, "n_heads": 2, "n_kv_heads": 1, "context_length": 64}
MODELS = {
    "gpt2-nano": {"dim": 32, "n_heads": 2, "context_length": 64},
    "llama-nano": WIDE,
    "qwen3-nano": WIDE,
    "llama4-nano": {
        **WIDE,
        "dense_hidden_dim": 64,
        "attention_chunk": 8192,
        "n_layers": 4,
    },  # llama.cpp needs a global one
}


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp")
@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
@pytest.mark.parametrize("preset", MODELS)
def test_a_trained_model_writes_the_same_text_in_llama_cpp(book, tmp_path, preset, tokenizer, capsys):
    options = {"vocab_size": 300} if tokenizer == "bpe" else {}
    run = train.start(
        plan(
            book, preset, MODELS[preset], tokenizer=tokenizer, steps=30, validation=0.3, sample_interval=30, **options
        ),
        tmp_path / "run",
    )
    file = tmp_path / "run.gguf"
    assert main(["convert", str(run), str(file), "--to", "gguf", "--quantize", "F32"]) == 0
    lm = luthier.load(run)
    prompt = "ka lo "
    expected = lm.generate(prompt, max_new_tokens=20, temperature=0)[0]
    asked = {"prompt": prompt, "temperature": 0, "n_predict": 20, "n_ctx": 64}
    done = subprocess.run(
        [sys.executable, str(LLAMA_CPP), str(file)], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().splitlines()[-1])["choices"][0]["text"] == expected
    assert luthier.load(file).generate(prompt, max_new_tokens=20, temperature=0)[0] == expected


@pytest.mark.parametrize("preset", MODELS)
def test_a_trained_model_has_the_same_logits_in_transformers(book, tmp_path, preset):
    transformers = pytest.importorskip("transformers")
    run = train.start(plan(book, preset, MODELS[preset], steps=4), tmp_path / "run")
    peer = transformers.AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32).eval()
    ids = torch.randint(luthier.load(run).config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(luthier.load(run).model(ids), peer(ids).logits, atol=1e-4, rtol=0)
    text = "ka lo mi té ru"
    assert transformers.AutoTokenizer.from_pretrained(run)(text)["input_ids"] == luthier.load(run).tokenizer.encode(
        text
    )
