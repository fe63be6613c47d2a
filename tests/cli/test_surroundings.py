"""What a command sets up before its verb, and what --debug and `luthier plan` say of the compiled step."""

from __future__ import annotations

import os

import pytest

from luthier.architectures import llama, registry
from luthier.cli.surroundings import shown_log, spin_little
from luthier.generation.decoding_session import DecodingSession
from luthier.native import build
from luthier.native.program import unsupported_reason

CONFIG = llama.Config(128, 64, 64, 96, 2, 2, 1)


def test_threads_spin_little_unless_the_environment_says_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_little()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    spin_little()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_debug_says_once_why_pytorch_computes_a_model(capsys):
    model = registry.build(CONFIG).eval()
    with shown_log():
        for _ in range(2):
            DecodingSession(model, [[1, 2]], 2, vocab_size=128)
    said = capsys.readouterr().err
    assert "is in float32, and it computes in bfloat16" in said
    assert said.count("PyTorch computes this model, not the compiled step: the weight of a ") == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIG, None),
        (llama.Config(128, 64, 48, 96, 1, 4, 2), "no multiple of 32"),
    ],
)
def test_a_plan_knows_whether_the_model_can_be_computed_by_the_compiled_step(config, reason):
    import torch

    if isinstance(unavailable := build.library_or_reason(), str):
        pytest.skip(unavailable)
    found = unsupported_reason(registry.build(config, device="meta", dtype=torch.bfloat16).eval())
    assert found is None if reason is None else reason in found
