"""`luthier train DATA --from MODEL`: a run that begins with the weights of a model."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import GPT2, OPTIONS, plan, records

from luthier.architectures import registry
from luthier.cli.main import main
from luthier.language_model import LanguageModel, load
from luthier.model.rope_scaling import RopeScaling
from luthier.run import train
from luthier.run.plan import read_recipe, resolve

FLAGS = [
    *("--steps", "4", "--batch-size", "2", "--eval-interval", "2", "--eval-batches", "2", "--sample-interval", "2"),
    *("--sample-tokens", "3", "--precision", "float32", "--compile", "no"),
]


@pytest.fixture(scope="module")
def old(book, tmp_path_factory):
    """A trained run of two heads and a context of 16."""
    return train.start(plan(book), tmp_path_factory.mktemp("old") / "old")


@pytest.fixture
def elsewhere(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(old, tmp_path / "old"))


def first_loss(run: Path) -> float:
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["train_loss"])


def failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_run_begins_where_the_model_stands_and_learns(book, elsewhere, capsys):
    digest = hashlib.sha256((elsewhere / "model.safetensors").read_bytes()).hexdigest()
    assert main(["train", str(book), "--from", "old", *FLAGS]) == 0
    said = capsys.readouterr().out
    assert "beginning with the weights of old: learning rate up to 0.0001, dropout 0, context 16 of 16 tokens" in said
    run = Path("runs/old-continued")
    looks = records(run / "metrics.jsonl")
    assert looks[0]["train_loss"] == pytest.approx(records(elsewhere / "metrics.jsonl")[-1]["train_loss"], abs=0.05)
    assert looks[-1]["train_loss"] < looks[0]["train_loss"]
    assert load(run).tokenizer.fingerprint == load(elsewhere).tokenizer.fingerprint
    assert hashlib.sha256((elsewhere / "model.safetensors").read_bytes()).hexdigest() == digest


def test_the_run_says_what_it_began_with_and_resumes_without_it(book, elsewhere, capsys):
    main(["train", str(book), "--from", "old", "--out", "new", "--model.dropout", "0.1", *FLAGS])
    shutil.rmtree(elsewhere)
    recipe = read_recipe("new")
    assert (recipe["from_model"], recipe["preset"], recipe["learning_rate"]) == ("old", "llama", 1e-4)
    assert (recipe["model"]["dim"], recipe["model"]["dropout"]) == (8, 0.1)
    assert main(["train", "--out", "new", "--resume", "--steps", "6"]) == 0
    assert records(Path("new/metrics.jsonl"))[-1]["step"] == 6
    assert main(["report", "new"]) == 0
    assert main(["verify", "new"]) == 0


def test_a_recipe_of_such_a_run_begins_with_the_model_again(book, elsewhere, capsys):
    main(["train", str(book), "--from", "old", "--out", "new", "--model.context-length", "8", *FLAGS])
    assert main(["train", "--recipe", "new", "--out", "again"]) == 0
    assert records(Path("again/metrics.jsonl")) == records(Path("new/metrics.jsonl"))
    shutil.rmtree(elsewhere)
    capsys.readouterr()
    assert main(["train", "--recipe", "new", "--out", "third"]) == 1
    assert "there is no old" in capsys.readouterr().err
    assert not Path("third").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--preset", "llama-nano"], "--preset llama-nano contradicts --from"),
        (["--tokenizer", "bpe"], "--tokenizer bpe contradicts --from"),  # the default, and yet named
        (["--vocab-size", "300"], "--vocab-size 300 contradicts --from"),
        (["--model.dim", "16"], "--model.dim 16 contradicts the model of --from, where it is 8"),
        (["--model.context-length", "32"], "--model.context-length 32 is more than the 16 tokens"),
        (["--recipe", "demo"], "contradicts --from"),
        (["--resume"], "leave one out"),
    ],
)
def test_settings_that_the_model_decides_are_refused(book, elsewhere, capsys, options, word):
    error = failure(capsys, ["train", str(book), "--from", "old", "--out", "new", *options])
    assert word in error
    assert error.count("\n") == 1
    assert not Path("new").exists()


def test_naming_what_the_model_has_is_no_contradiction(book, elsewhere):
    options = ["--model.dim", "8", "--preset", "llama", "--tokenizer", "old"]
    assert main(["train", str(book), "--from", "old", "--out", "new", *options, *FLAGS]) == 0


def test_a_shorter_context_cuts_learned_positions(book, tmp_path):
    old = train.start(plan(book, "gpt2-nano"), tmp_path / "old")
    source = load(old, dtype=torch.float32)
    made = resolve(
        (str(book),), options={**OPTIONS, "from_model": str(old), "tokenizer": str(old)},
        model={"context_length": 8}, source=source.config,
    )  # fmt: skip
    assert made.model == replace(source.config, context_length=8, dropout=0.0)
    positions = load(old).model.state_dict()["position_embedding.weight"]
    train.start(replace(made, settings=replace(made.settings, learning_rate=1e-9, max_grad_norm=0.0)), tmp_path / "new")
    kept = load(tmp_path / "new").model.state_dict()["position_embedding.weight"]
    assert kept.shape == (8, GPT2["dim"])
    torch.testing.assert_close(kept, positions[:8])


def test_any_kind_of_file_is_a_beginning_and_quantized_ones_are_expanded(book, elsewhere, capsys):
    main(["convert", "old", "old.gguf", "--to", "gguf", "--quantize", "F16"])
    assert main(["train", str(book), "--from", "old.gguf", *FLAGS]) == 0
    run = Path("runs/old-continued")
    assert load(run).dtype == torch.float32
    assert first_loss(run) == pytest.approx(records(Path("old/metrics.jsonl"))[-1]["train_loss"], abs=0.05)


def test_a_vocabulary_that_is_padded_and_scaled_positions_stay(book, elsewhere):
    lm = load(elsewhere)
    scaling = RopeScaling(kind="yarn", factor=2.0, original_context_length=8)
    config = replace(lm.config, vocab_size=lm.config.vocab_size + 5, rope_scaling=scaling, tie_embeddings=False)
    LanguageModel(registry.build(config, seed=3), lm.tokenizer, config).save("padded")
    assert main(["train", str(book), "--from", "padded", "--out", "new", *FLAGS]) == 0
    shutil.rmtree("padded")
    assert main(["train", "--out", "new", "--resume", "--steps", "5"]) == 0
    assert load("new").config == config


def test_prepared_text_must_be_of_the_models_tokenizer(book, elsewhere, capsys):
    main(["data", "prepare", str(book), "--tokenizer", "old", "--out", "tokens"])
    assert main(["train", "tokens", "--from", "old", "--out", "new", *FLAGS]) == 0
    main(["tokenizer", "train", str(book), "--vocab-size", "300", "--out", "other"])
    main(["data", "prepare", str(book), "--tokenizer", "other", "--out", "foreign"])
    capsys.readouterr()
    assert "foreign was prepared with another tokenizer" in failure(
        capsys, ["train", "foreign", "--from", "old", "--out", "third", *FLAGS]
    )
    assert not Path("third").exists()


def test_plan_counts_the_model_and_the_text_in_its_tokens(book, elsewhere, capsys):
    assert main(["plan", str(book), "--from", "old", "--steps", "4", "--batch-size", "2"]) == 0
    table = capsys.readouterr().out
    assert "llama from old on" in table
    parameters, _ = registry.count_parameters(load(elsewhere).config)
    assert f"{parameters:,}" in table


def test_the_model_that_comes_out_opens_in_transformers(book, elsewhere):
    transformers = pytest.importorskip("transformers")
    main(["train", str(book), "--from", "old", "--out", "new", *FLAGS])
    theirs = transformers.AutoModelForCausalLM.from_pretrained("new")
    lm = load("new")
    tokens = torch.tensor([lm.tokenizer.encode("ka lo mi")])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, lm.model(tokens), atol=1e-4, rtol=1e-4)
