"""Variants of a study are the families at its ends, equal in what the budget says, compared by seed, and resumable."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

import luthier
from luthier.architectures import composed, registry
from luthier.cli import ladder
from luthier.errors import LuthierError, UsageError
from luthier.run import train
from luthier.study.ablation import ablate, read_study
from luthier.study.ablation_page import table
from luthier.study.parts import PARTS, composed_of
from luthier.study.results import Evaluation, Training, gains, mean_and_error, verdict
from luthier.study.variants import Variant, base_config, changed, cost, fitted, variants_of_file, way

TAKEN_APART = [
    "gpt2", "llama", "llama4", "mistral", "mixtral", "qwen2", "qwen3", "qwen3moe", "smollm3", "olmo", "granite",
    "granitemoe", "gemma2", "gemma3", "phi3", "stablelm", "arcee", "helium", "gptneox", "gptj", "deepseek", "nanochat",
]  # fmt: skip


def small(family):
    sizes = registry.FAMILIES[family].sizes
    return replace(sizes[next(name for name in sizes if name.endswith("-nano"))], vocab_size=64)


@pytest.mark.parametrize("family", TAKEN_APART)
def test_a_family_taken_apart_builds_the_same_model(family):
    config = small(family)
    theirs, ours = (registry.build(each, seed=3).eval() for each in (config, composed_of(config, family)))
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.arange(24)[None] % config.vocab_size
    with torch.no_grad():
        assert torch.equal(ours(tokens), theirs(tokens))


def test_a_family_with_parts_of_its_own_is_refused_by_its_place():
    with pytest.raises(UsageError, match=r"gpt-oss cannot be taken apart: it has .* at blocks\.0\.feed_forward"):
        composed_of(small("gpt-oss"), "gpt-oss")


def test_every_part_of_a_composed_model_has_a_place_on_the_way():
    names = {name for fields in PARTS.values() for name in fields}
    shape = {"vocab_size", "context_length", "dim", "n_layers", "n_heads"}
    assert names == set(composed.Config.__dataclass_fields__) - shape


@pytest.mark.parametrize("to", ["qwen3", "deepseek", "llama4", "gemma2"])
def test_a_way_changes_one_part_at_a_time_and_ends_at_the_family(to):
    base = base_config("gpt2", "nano", {})
    found = way(base, "gpt2", to, "nano")
    configs = [base, *(each.config for each in found)]
    for before, after in itertools.pairwise(configs):
        changed_fields = {n for n in composed.Config.__dataclass_fields__ if getattr(before, n) != getattr(after, n)}
        assert sum(bool(changed_fields & set(fields)) for fields in PARTS.values()) == 1
    assert found[-1].name.startswith(f"{to} (")
    theirs = registry.preset(f"{to}-nano")
    assert registry.count_parameters(found[-1].config) == registry.count_parameters(theirs)


def test_variants_have_the_parameters_of_the_base():
    base = base_config("gpt2", "nano", {})
    parameters = registry.count_parameters(base)[0]
    for variant in [*way(base, "gpt2", "qwen3", "nano"), *way(base, "gpt2", "deepseek", "nano")]:
        assert abs(registry.count_parameters(fitted(variant, parameters).config)[0] / parameters - 1) < 0.02


def test_parts_are_added_and_removed_by_name():
    base = base_config("llama", "nano", {})
    assert changed(base, ["qk_norm"], []).qk_norm == "head"
    assert changed(base, [], ["rope"]).positions == "none"
    for add, remove, message in (
        (["wings"], [], "no part 'wings'"), (["rope"], [], "changes nothing"), ([], ["geglu"], "has no geglu"),
        ([], ["learned_positions"], "its positions is rope"), ([], ["qk_norm"], "changes nothing"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            changed(base, add, remove)
    with pytest.raises(UsageError, match="latent attention"):
        registry.build_on_meta(changed(base_config("gpt2", "nano", {}), ["latent_attention"], []))


def test_a_file_names_variants(tmp_path):
    path = tmp_path / "variants.toml"
    path.write_text(
        '[base]\npreset = "llama"\n[normed]\nadd = ["qk_norm"]\n[own]\npreset = "nanochat"\nlearning_rate = 1e-3\n'
        "[wide]\nhidden_dim = 400\n"
    )
    base, normed, own, wide = variants_of_file(path, "nano", {})
    assert type(base.config) is type(wide.config) is registry.FAMILIES["llama"].config
    assert (normed.config.qk_norm, own.learning_rate, wide.config.hidden_dim) == ("head", 1e-3, 400)
    path.write_text('[base]\npreset = "llama"\nhiden_dim = 3\n')
    with pytest.raises(UsageError, match="hidden_dim"):
        variants_of_file(path, "nano", {})


def made_up(losses):
    return [
        Training(name, seed, 2e-3, 100, 100, 1e9, 64, 1e3, [Evaluation(0, 0, 5.0), Evaluation(2, 64, loss)])
        for name, row in losses.items()
        for seed, loss in enumerate(row, 1)
    ]


def test_gains_are_paired_by_seed_and_said_to_be_none_where_there_is_none():
    found = made_up({"a": [3.0, 4.0, 5.0], "b": [2.9, 3.89, 4.9], "c": [3.2, 3.8, 5.1], "d": [3.1, 4.11, 5.1]})
    a, b, c, d = (found[place : place + 3] for place in (0, 3, 6, 9))
    mean, error = mean_and_error(gains(a, b))
    assert mean == pytest.approx(0.10333, abs=1e-4)
    assert error < 0.01  # the seeds differ by 1 and the gain does not
    assert [verdict(gains(a, each)) for each in (b, c, d)] == ["better", "no difference", "worse"]
    assert verdict(gains(a[:1], b[:1])) == "unknown: one seed"
    assert mean_and_error([]) == (None, None)


SMALL = {
    "steps": 3, "batch_size": 2, "eval_batches": 1, "device": "cpu", "threads": 1,
    "model": {"dim": 16, "n_layers": 2, "n_heads": 2, "context_length": 16, "vocab_size": 300, "hidden_dim": 64},
}  # fmt: skip


def test_a_study_is_stopped_and_goes_on_to_the_same_end(book, tmp_path, monkeypatch):
    out, asked = tmp_path / "study", {"add": ("qk_norm",), "remove": ("biases",), "seeds": 2, **SMALL}
    whole = ablate(str(book), out=tmp_path / "whole", report=lambda _: None, **asked)
    assert [(each.variant, each.seed) for each in whole] == [
        (name, seed) for seed in (1, 2) for name in ("gpt2", "+ qk_norm", "- biases")
    ]
    start, begun = train.start, []

    def stops(plan, folder, source=None):
        begun.append(folder)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return start(plan, folder, source)

    monkeypatch.setattr(train, "start", stops)
    with pytest.raises(KeyboardInterrupt):
        ablate(str(book), out=out, report=lambda _: None, **asked)
    with pytest.raises(UsageError, match="holds a study"):
        ablate(str(book), out=out, **asked)
    again = ablate(out=out, resume=True, report=lambda _: None)
    assert [each.loss for each in again] == [each.loss for each in whole]
    assert len(begun) == 7  # of six trainings, the one that was stopped was begun twice
    shown = table(again, read_study(out))
    assert "learning rate" not in shown.head
    assert shown.rows[0][0] == "gpt2"
    assert json.loads((out / "report.json").read_text())["trainings"][-1]["variant"] == "- biases"
    model = luthier.load(out / "runs" / "01-qk-norm-seed1")
    assert model.config.qk_norm == "head"
    assert len(model.generate("the", max_new_tokens=3)) == 1


def test_learning_rates_are_chosen_by_variant_and_flops_are_equal(book, tmp_path):
    out = tmp_path / "study"
    done = ablate(
        str(book), to="llama", out=out, seeds=1, budget="flops", learning_rates=(1e-4, 1e-2), report=lambda _: None,
        **{**SMALL, "steps": 8},
    )  # fmt: skip
    assert {each.learning_rate for each in done} <= {1e-4, 1e-2}
    study = read_study(out)
    spent = [study.steps_of(each) * cost(each.config) for each in study.variants]
    assert max(spent) / min(spent) < 1.2
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "There is one seed" in text
    assert "lowest validation loss with seed 1" in text


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"steps": 0}, {"size": "huge"}, {"batch_size": 0}, {"to": "gpt9"}])
def test_settings_out_of_range_are_refused(wrong, book, tmp_path):
    with pytest.raises(UsageError):
        ablate(str(book), out=tmp_path / "study", **{"to": "llama", **wrong})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_study_is_left_alone(book, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is there and no study"):
        ablate(str(book), to="llama", out=tmp_path)
    with pytest.raises(LuthierError, match="is not a study"):
        ablate(out=tmp_path, resume=True)


def test_a_variant_keeps_what_it_is_compared_with():
    variants = way(base_config("gpt2", "nano", {}), "gpt2", "qwen3", "nano")
    assert [each.before for each in variants] == ["gpt2", *(each.name for each in variants[:-1])]
    assert isinstance(variants[0], Variant)


def test_the_ladder_is_an_ablation_with_its_old_options(monkeypatch, tmp_path):
    heard = {}
    monkeypatch.setattr("luthier.study.ladder.ablate", lambda data, **options: heard.update(options, data=data))
    out = tmp_path / "page.html"
    assert ladder.main(["book.txt", "--out", str(out), "--size", "micro", "--seeds", "1", "--steps", "7"]) == 0
    assert heard == {
        "data": ("book.txt",), "base": "gpt2", "to": "llama4", "page": out, "out": tmp_path / "page-study",
        "size": "micro", "seeds": 1, "steps": 7, "batch_size": 16, "learning_rate": 2e-3, "device": "auto",
        "resume": False, "model": None,
    }  # fmt: skip
