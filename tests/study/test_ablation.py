"""The variants are sets of parts: equal in size, true to the architectures at three of them, and causal all."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, fields, replace
from itertools import pairwise

import pytest
import torch

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.cli import ladder as command
from luthier.errors import LuthierError, UsageError
from luthier.model.moe import MoE
from luthier.run.plan import resolve
from luthier.study.ablation import run_ablation, shape_of
from luthier.study.ablation_page import sections, table
from luthier.study.results import Evaluation, Training, gain, spread
from luthier.study.variants import TOLERANCE, Parts, Shape, budget, build, count, hidden_dim_for, on_meta, variants

SHAPE = Shape(vocab_size=50, context_length=16, dim=32, n_layers=4, n_heads=4)
TINY = {"dim": 16, "n_layers": 2, "n_heads": 4, "context_length": 16, "vocab_size": 300}


def shapes():
    plans = [(size, resolve((), options={"preset": f"gpt2-{size}"})) for size in ("nano", "micro", "mini")]
    return [SHAPE, *(shape_of(plan, size) for size, plan in plans)]


@pytest.mark.parametrize("shape", shapes(), ids=["tiny", "nano", "micro", "mini"])
@pytest.mark.parametrize("name", variants())
def test_all_variants_have_as_many_parameters(name, shape):
    width = hidden_dim_for(variants()[name], shape, budget(shape))
    total, active = count(on_meta(variants()[name], shape, width))
    assert abs(total / budget(shape) - 1) < TOLERANCE
    assert (active < total) == variants()[name].experts


def test_each_variant_has_one_part_more():
    sets = [{name for name, there in asdict(parts).items() if there} for parts in variants().values()]
    assert [len(parts) for parts in sets] == list(range(len(fields(Parts)) + 1))
    assert all(low < high for low, high in pairwise(sets))


@pytest.mark.parametrize("name", variants())
def test_no_variant_sees_what_comes_later(name):
    parts = variants()[name]
    model = build(parts, SHAPE, 24, seed=3).eval()
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    for place in (1, 9, 15):
        changed = tokens.clone()
        changed[:, place] = (tokens[:, place] + 1) % 50
        with torch.no_grad():
            before, after = model(tokens), model(changed)
        torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(before[:, place:], after[:, place:], atol=1e-4)


def configs():
    same = {"vocab_size": 50, "context_length": 16, "dim": 32, "n_layers": 4, "n_heads": 4, "tie_embeddings": True}
    return {
        "GPT-2": (128, gpt2.Config(**same, dropout=0.0)),
        "Llama 2": (40, llama.Config(**same, hidden_dim=40, n_kv_heads=2)),
        "Llama 4": (
            24,
            llama4.Config(**same, hidden_dim=24, n_kv_heads=2, n_experts=4, attention_chunk=8, rope_theta=1e4),
        ),
    }


@pytest.mark.parametrize("name", configs())
def test_three_variants_are_the_architectures(name):
    width, config = configs()[name]
    ours, theirs = build(variants()[name], SHAPE, width, seed=5), registry.build(config, seed=5)
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == {
        key: tuple(value.shape) for key, value in theirs.state_dict().items()
    }
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours.eval()(tokens), theirs.eval()(tokens))


def test_a_part_alone_changes_what_it_names():
    alone = {field.name: build(replace(Parts(), **{field.name: True}), SHAPE, 24, seed=0) for field in fields(Parts)}
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in alone["rms_norm"].modules())
    assert alone["rope"].position_embedding is None
    assert alone["swiglu"].layers[0].feed_forward.gate.weight.shape == (24, 32)
    assert alone["grouped_queries"].layers[0].attention.n_kv_heads == 2
    assert alone["no_biases"].layers[0].attention.query.bias is None
    assert all(isinstance(block.feed_forward, MoE) for block in alone["experts"].layers)
    assert [block.attention.mask.window for block in alone["local_layers"].layers] == [8, 8, 8, None]


def made_up(losses):
    evaluations = [Evaluation(0, 0, 5.0)]
    return [
        Training(name, seed, 8, 100, 100, 64, 1000.0, [*evaluations, Evaluation(2, 64, loss)])
        for name, row in losses.items()
        for seed, loss in enumerate(row, 1)
    ]


def test_gain_is_taken_seed_by_seed():
    trainings = made_up({"GPT-2": [3.0, 4.0, 5.0], "+ RMSNorm": [2.9, 3.9, 4.9], "+ RoPE": [2.8, 3.9]})
    below, found, unfinished = trainings[:3], trainings[3:6], trainings[6:]
    assert spread(below) == pytest.approx(statistics.stdev([3, 4, 5]))
    gained, error = gain(below, found)
    assert gained == pytest.approx(0.1)
    assert error == pytest.approx(0, abs=1e-9)  # the seeds differ by 1 and the gain does not
    assert gain(found, unfinished)[0] == pytest.approx(0.05)
    assert gain([], below) == (None, None)
    assert gain(below[:1], found[:1]) == (pytest.approx(0.1), None)
    rows = table({"GPT-2": below, "+ RMSNorm": found}).rows
    assert [row[1] for row in rows] == [4.0, 3.9]
    assert rows[1][3] == 0.1


def test_curves_show_the_mean_and_the_spread():
    trainings = made_up({"GPT-2": [3.0, 4.0], "+ RMSNorm": [2.0, 2.5]})
    charts = sections(trainings, resolve(()))[1].charts
    band, mean = charts[0].traces[:2]
    assert mean["y"] == [5.0, 3.5]
    assert band["y"] == [5.0, 4.0, 3.0, 5.0]
    assert [trace["y"] for trace in charts[1].traces] == [[3.0, 4.0], [2.0, 2.5]]
    assert charts[2].traces[0]["y"] == [pytest.approx(1.25)]


def test_every_variant_is_trained_with_every_seed(book, tmp_path):
    heard, page = [], tmp_path / "out" / "ladder.html"
    trainings = run_ablation(
        (str(book),), page, seeds=2, steps=3, batch_size=2, device="cpu", model=TINY, report=heard.append
    )
    assert [(each.variant, each.seed) for each in trainings] == [(name, seed) for seed in (1, 2) for name in variants()]
    assert len(heard) == 16
    sizes = [each.parameters for each in trainings]
    assert max(sizes) / min(sizes) < 1 + 2 * TOLERANCE
    assert (
        len({(evaluation.step, evaluation.tokens) for each in trainings for evaluation in each.evaluations[-1:]}) == 1
    )
    assert len({each.loss for each in trainings}) == 16
    kept = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [each["evaluations"][-1]["loss"] for each in kept["trainings"]] == [each.loss for each in trainings]
    text = page.read_text(encoding="utf-8")
    assert all(f'<td class="text">{name}</td>' in text for name in variants())
    assert "trainings done" not in text
    again = run_ablation(
        (str(book),), page, seeds=1, steps=3, batch_size=2, device="cpu", model=TINY, report=heard.append
    )
    assert [each.evaluations for each in again] == [
        each.evaluations for each in trainings[:8]
    ]  # a seed names a training


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"steps": 0}, {"size": "huge"}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(wrong, book, tmp_path):
    with pytest.raises(UsageError):
        run_ablation((str(book),), tmp_path / "ladder.html", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_known_before_training(book, tmp_path):
    (tmp_path / "file").touch()
    for wrong in (tmp_path, tmp_path / "file" / "ladder.html"):
        with pytest.raises(LuthierError, match=r"is a folder|cannot write"):
            run_ablation((str(book),), wrong, seeds=1, steps=10**9)


def test_the_command_hands_its_options_on(monkeypatch, tmp_path, capsys):
    heard = {}
    monkeypatch.setattr(
        "luthier.study.ladder.run_ablation", lambda data, out, **options: heard.update(options, data=data, out=out)
    )
    out = tmp_path / "page.html"
    assert command.main(["book.txt", "--out", str(out), "--size", "micro", "--seeds", "1", "--steps", "7"]) == 0
    assert heard == {
        "data": ("book.txt",), "out": out, "size": "micro", "seeds": 1, "steps": 7, "batch_size": 16,
        "learning_rate": 2e-3, "device": "auto", "model": {},
    }  # fmt: skip
    assert capsys.readouterr().out.strip() == str(out)
