"""Settings that do nothing are said, by every verb that takes them; those that do something are not."""

from __future__ import annotations

import re

import pytest
from tiny_runs import plan

from luthier.architectures.registry import presets
from luthier.cli.main import main
from luthier.errors import Interface, Remark, interface
from luthier.generation.settings import GenerationSettings
from luthier.run import train
from luthier.run.idle_settings import idle_settings
from luthier.run.plan import read_recipe, recipes, resolve


@pytest.fixture(autouse=True)
def _options():
    with interface(Interface(options=True, model_options=True)):
        yield


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": "characters", "vocab_size": 20}, "--vocab-size 20 has no effect: the tokenizer has its own"),
        ({"decay": 0.5}, "--decay 0.5 has no effect: it belongs to --schedule wsd"),
        ({"schedule": "constant", "final_lr_fraction": 0.3}, "--final-lr-fraction 0.3 has no effect: --schedule"),
        ({"muon_learning_rate": 0.1}, "--muon-learning-rate 0.1 has no effect: it belongs to --optimizer muon"),
        ({"balance": "none"}, "--balance none has no effect: the model has no experts"),
        ({"balance_rate": 0.5}, "--balance-rate 0.5 has no effect: the model has no experts"),
        (
            {"preset": "llama4-nano", "balance": "none", "balance_rate": 0.5},
            "--balance-rate 0.5 has no effect: --balance",
        ),
        ({"split_by": "documents", "validation": 0.0}, "--split-by documents has no effect: no share"),
        ({"split_by": "documents", "validation": "other.txt"}, "--split-by documents has no effect: no share"),
        ({"parallel": "fsdp"}, "--parallel fsdp has no effect: one process"),
    ],
)
def test_a_setting_that_does_nothing_is_said(options, said):
    [line] = idle_settings(resolve(("a.txt",), options=options))
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"temperature_tuning": False, "temperature_floor": 3}, "--model.temperature-floor 3 has no effect"),
        ({"moe_layers": (1,), "moe_every": 2}, "--model.moe-every 2 has no effect: --model.moe-layers"),
        ({"global_layers": (1,), "global_every": 2}, "--model.global-every 2 has no effect: --model.global-layers"),
        ({"attention_chunk": 4096}, "--model.attention-chunk 4096 has no effect: a chunk is no shorter"),
        ({"dense_hidden_dim": 7}, "--model.dense-hidden-dim 7 has no effect: every layer has experts"),
    ],
)
def test_so_is_one_of_the_model(model, said):
    [line] = idle_settings(resolve(("a.txt",), options={"preset": "llama4-nano"}, model={"moe_every": 1, **model}))
    assert line.startswith(said)


def test_what_a_prepared_text_has_decided_is_said():
    options = {"vocab_size": 400, "validation": 0.2, "document_separator": "%"}
    lines = list(idle_settings(resolve(("tokens",), options=options), prepared=True))
    assert [line.split()[0] for line in lines] == ["--vocab-size", "--validation", "--document-separator"]
    assert all(line.endswith("the text is prepared already") for line in lines)


@pytest.mark.parametrize("name", recipes())
def test_no_recipe_that_is_shipped_sets_what_does_nothing(name):
    assert not list(idle_settings(resolve(recipe=read_recipe(name), where=name)))


@pytest.mark.parametrize("name", presets())
def test_no_preset_does(name):
    assert not list(idle_settings(resolve(("a.txt",), options={"preset": name})))


def test_settings_that_do_something_are_not_said():
    options = {"schedule": "wsd", "decay": 0.5, "optimizer": "muon", "muon_learning_rate": 0.1, "vocab_size": 300}
    assert not list(idle_settings(resolve(("a.txt",), options=options)))
    assert not list(idle_settings(resolve(("a.txt",), options={"parallel": "fsdp"}), processes=2))


def test_a_vocabulary_of_another_size_than_asked_for_is_said(book, tmp_path):
    with pytest.warns(Remark, match=r"of 50,000 tokens asked for, [\d,]+ were made: no more pairs"):
        train.start(plan(book, steps=1, tokenizer="bpe", vocab_size=50_000), tmp_path / "a")
    own = plan(book, steps=1, tokenizer="gpt2", model={"vocab_size": 1000})
    with pytest.warns(Remark, match=r"--model.vocab-size 1000 has no effect: .* its own vocabulary of 50,257"):
        train.start(own, tmp_path / "b")


def test_a_field_without_records_is_said(book, tmp_path):
    with pytest.warns(Remark, match=r"--field story has no effect: there is no \.json"):
        train.start(plan(book, steps=1, field="story"), tmp_path / "a")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0, "top_k": 5}, ["--top-k 5 has no effect: --temperature 0"]),
        ({"temperature": 0.0, "seed": 5, "samples": 2}, ["--seed 5 has no effect", "--samples 2 gives equal texts"]),
        (
            {"beams": 2, "temperature": 0.3, "seed": 4},
            ["--temperature 0.3 has no effect: beam", "--seed 4 has"],
        ),
        ({"length_penalty": 2.0}, ["--length-penalty 2.0 has no effect: it is for beam search"]),
        ({"temperature": 0.0}, []),
        ({"beams": 2, "length_penalty": 2.0}, []),
        ({"top_k": 5, "seed": 3, "samples": 2}, []),
    ],
)
def test_generation_says_so_too(settings, said):
    found = GenerationSettings(**settings).idle()
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def test_options_that_do_nothing_at_all_are_refused(book, tmp_path, capsys):
    for arguments, said in (
        (["train", str(book), "--anyway", "--out", str(tmp_path / "a")], "--anyway is for --resume"),
        (["train", "--resume", "--recipe", "demo", "--out", str(tmp_path / "a")], "leave --recipe out"),
        (
            ["convert", "x", str(tmp_path / "y.gguf"), "--to", "gguf", "--shard-size", "1"],
            "--shard-size is for --to hf",
        ),
    ):
        assert main(arguments) == 2
        assert re.search(said, capsys.readouterr().err)
    assert not list(tmp_path.glob("a*"))


def test_a_draw_of_documents_that_does_not_happen_is_said(book, tmp_path, capsys):
    arguments = ["data", "prepare", str(book), "--tokenizer", "gpt2", "--seed", "3", "--out", str(tmp_path / "tokens")]
    assert main(arguments) == 0
    assert "--seed 3 has no effect: the text is split by characters" in capsys.readouterr().err
