"""Run folders of version 0.1 (golden_0_1/) go on opening, verifying and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_runs import records

import luthier
from luthier.run import train
from luthier.run.record import read
from luthier.run.verify import check_files

GOLDEN = Path(__file__).parent / "golden_0_1"
LAST = "checkpoints/step-00000012/model.safetensors"


@pytest.fixture(params=["finished", "interrupted", "interrupted-muon"])
def old(request, tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def test_an_old_run_opens_and_is_as_written(old):
    assert luthier.load(old).generate("ka", max_new_tokens=3)
    assert read(old).evaluations[-1]["step"] == (12 if old.name == "finished" else 6)
    checks = list(check_files(old))
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 3  # two checkpoints and the tokens


def test_an_old_run_that_was_interrupted_ends_where_it_would_have(old, capsys):
    steps = {"steps": 14} if old.name == "finished" else {}
    train.resume(old, steps, {}, ())
    assert (
        "is not what the checkpoint was trained with" not in capsys.readouterr().err
    )  # settings that it lacks are new
    assert records(old / "metrics.jsonl")[-1]["step"] == (14 if steps else 12)
    if old.name == "interrupted":  # the same run as `finished`, and another processor may round otherwise
        weights = [safetensors.torch.load_file(folder / LAST) for folder in (GOLDEN / "finished", old)]
        for name, weight in weights[0].items():
            torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=0)
