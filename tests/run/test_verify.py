"""`luthier verify`: what holds passes, and what is broken is found."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

import pytest
import torch
from tiny_runs import plan
from tokenizers.normalizers import Replace

import luthier
from luthier.cli.main import main
from luthier.errors import LuthierError, Remark
from luthier.files.unfinished import is_unfinished
from luthier.language_model import LanguageModel
from luthier.model.mask import Causal
from luthier.run import train
from luthier.run.verify import checks_of
from luthier.tokenizers.core.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def runs(book, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        preset: train.start(plan(book, preset, steps=2), folder / preset)
        for preset in ("gpt2-nano", "llama-nano", "llama4-nano")
    }


@dataclass(frozen=True)
class Leaky(Causal):
    """Every token sees the next one too."""

    window = 0

    def __call__(self, queries, keys):
        return keys <= queries + 1


def failures(path, lm=None):
    return [check.name for check in checks_of(path, lm or luthier.load(path)) if not check.passed]


@pytest.mark.parametrize("preset", ["gpt2-nano", "llama-nano", "llama4-nano"])
def test_a_sound_run_passes_every_check(runs, preset, capsys):
    assert main(["verify", str(runs[preset])]) == 0
    said = capsys.readouterr().out
    assert "all holds" in said
    assert said.count("pass") >= 9


def test_control_characters_that_training_removed_are_no_failure(book, tmp_path):
    """A BPE decodes bytes that are control characters, and the run's cleaning removes them from every text."""
    options = {"tokenizer": "bpe", "vocab_size": 300, "steps": 1}
    run = train.start(plan(book, model={"vocab_size": 300}, **options), tmp_path / "run")
    assert failures(run) == []
    lm = luthier.load(run)
    broken = lm.tokenizer.backend
    broken.normalizer = Replace("k", "q")
    failed = [
        check for check in checks_of(run, LanguageModel(lm.model, Tokenizer(broken), lm.config)) if not check.passed
    ]
    assert [check.name for check in failed] == ["text survives the tokenizer"]
    assert re.search(r"k.*' comes back as '.*q", failed[0].figure)
    assert len(failed[0].figure) < 150


def test_a_mask_that_leaks_is_caught(runs, capsys, monkeypatch):
    lm = luthier.load(runs["llama-nano"])

    for block in lm.model.blocks:
        block.attention.mask = Leaky()
    assert "a later token changes nothing before it" in failures(runs["llama-nano"], lm)
    monkeypatch.setattr("luthier.language_model.load", lambda *_, **__: lm)
    assert main(["verify", str(runs["llama-nano"])]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_positions_that_count_padding_are_caught(runs, monkeypatch):
    lm = luthier.load(runs["gpt2-nano"])
    monkeypatch.setattr(
        type(lm.model), "positions", lambda model, n_keys, valid, device: torch.arange(n_keys, device=device)[None]
    )
    assert failures(runs["gpt2-nano"], lm) == ["padding on the left changes nothing"]


def test_a_cache_that_forgets_is_caught(runs, monkeypatch):
    from luthier.model.cache import LayerCache

    whole = LayerCache.append

    def append(cache, keys, values, *, first=0):
        keys, values = whole(cache, keys, values, first=first)
        return keys * (torch.arange(keys.shape[2]) != 1)[:, None], values

    monkeypatch.setattr(LayerCache, "append", append)
    assert failures(runs["llama4-nano"]) == ["token by token with the cache equals the whole"]


def test_weights_that_are_no_numbers_are_caught(runs):
    lm = luthier.load(runs["llama-nano"], dtype=torch.float32)
    with torch.no_grad():
        lm.model.blocks[0].attention.query.weight[0, 0] = float("nan")
    with pytest.warns(Remark, match="weights are NaN or infinite"):  # said when verify opens what it saved
        assert "every weight is a finite number" in failures(runs["llama-nano"], lm)


@pytest.mark.parametrize("name", ["checkpoints/step-00000002/model.safetensors", "tokens/train-00000.bin"])
def test_a_flipped_bit_in_a_file_is_caught(runs, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(runs["llama-nano"], run)
    content = bytearray((run / name).read_bytes())
    content[-1] ^= 1
    (run / name).write_bytes(content)
    [failed] = failures(run)
    assert failed in ("files of step-00000002 are as written", "tokens are as written")


def test_the_copy_that_it_saves_is_cleared_by_the_next_one_after_a_kill(runs, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(LanguageModel, "save", lambda lm, path: saved.append(path) or stop())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failures(runs["llama-nano"])
    assert [(is_unfinished(path), path.parent) for path in saved] == [(True, tmp_path)]


def stop():
    raise LuthierError("enough")
