"""What may change when a run is resumed: each setting by itself, and the same said in the help and in the docs."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_runs import plan, records, words

from luthier.cli.main import main
from luthier.errors import LuthierError, UsageError
from luthier.run import train
from luthier.run.changes import ANYWAY, FREELY, NEVER, table, word
from luthier.run.checkpoint_record import newest_record
from luthier.run.verify import check_files
from luthier.training.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
STEPS = 10  # until which the run of 8 steps goes on
OTHER = {
    "steps": 11, "epochs": 0.25, "eval_interval": 2, "eval_batches": 1, "sample_interval": 3, "sample_prompt": "ka",
    "sample_tokens": 4, "sample_temperature": 0.5, "save_interval": 2, "keep_checkpoints": 3,
    "tensorboard": True, "device": "cpu", "compile": "auto", "threads": 1,
    "parallel": "ddp", "activation_checkpointing": True, "non_finite": "skip",
    "spikes": "rewind",
    "batches": "sliding", "batch_size": 4, "stride": 5, "gradient_accumulation_steps": 2, "optimizer": "muon",
    "learning_rate": 0.02, "muon_learning_rate": 0.02, "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.99,
    "max_grad_norm": 0.5, "schedule": "linear", "warmup": 0.5, "decay": 0.5, "final_lr_fraction": 0.5,
    "seed": 7, "balance": "auxiliary", "balance_rate": 0.5,
    "precision": "bfloat16",
    "preset": "gpt2-nano", "from_model": "other", "tokenizer": "bpe", "vocab_size": 300, "validation": 0.2, "test": 0.1,
    "split_by": "documents", "field": "body", "document_separator": "§", "normalization": "NFKC", "invalid": "replace",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(book, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    sliding = {"batches": "sliding", "stride": 8}
    return {
        kind: train.start(plan(book, **options), folder / kind)
        for kind, options in (("random", {}), ("sliding", sliding))
    }


@pytest.fixture
def run(runs, tmp_path, request):
    kind = "sliding" if getattr(request, "param", "") == "stride" else "random"
    return Path(shutil.copytree(runs[kind], tmp_path / "run"))


def change(name: str) -> dict[str, object]:
    """A change of one setting, and of the length, without which the run would be finished."""
    return {name: OTHER[name], **({} if name in ("steps", "epochs") else {"steps": STEPS})}


def test_every_setting_is_in_the_table_once():
    assert sorted([*FREELY, *ANYWAY, *NEVER]) == sorted({*FREELY, *ANYWAY, *NEVER})
    assert {*FREELY, *ANYWAY, *NEVER} - {"data", "model.dropout"} == {item.name for item in fields(Settings)}
    assert OTHER.keys() == {item.name for item in fields(Settings)}


def settings_of(run: Path) -> dict[str, object]:
    record = newest_record(run)
    assert record is not None
    return record.settings | {"step": record.step}


@pytest.mark.parametrize("name", [name for name in FREELY if name != "tensorboard"])
def test_what_changes_freely_does(run, name, capsys):
    train.resume(run, change(name), {}, ())
    assert settings_of(run)[name] == OTHER[name]
    assert settings_of(run)["step"] == {"steps": 11, "epochs": 12}.get(name, STEPS)
    assert f'{name} = "{OTHER[name]}"' in toml(run) or f"{name} = {str(OTHER[name]).lower()}" in toml(run)
    assert "RuntimeWarning" not in capsys.readouterr().err


def toml(run: Path) -> str:
    return (run / "run.toml").read_text()


@pytest.mark.parametrize(
    ("run", "name"), [(name, name) for name in ANYWAY if name not in ("data", "model.dropout")], indirect=["run"]
)
def test_what_changes_with_anyway_is_refused_without_it_and_then_trains(run, name):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=f"{name} is .*, not {OTHER[name]}. Leave that out, add anyway=True"):
        train.resume(run, change(name), {}, ())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    train.resume(run, change(name), {}, (), anyway=True)
    assert settings_of(run)[name] == OTHER[name]
    assert settings_of(run)["step"] == STEPS
    assert records(run / "metrics.jsonl")[-1]["step"] == STEPS
    train.resume(run, {"steps": 12}, {}, ())  # and what it was changed to is what goes on
    assert settings_of(run)[name] == OTHER[name]


@pytest.mark.parametrize("name", NEVER)
def test_what_never_changes_is_refused_and_anyway_is_not_advised(run, name):
    for anyway in (False, True):
        with pytest.raises(
            UsageError, match=f"{name} is .*, not {OTHER[name]}. Leave that out, or start another"
        ) as no:
            train.resume(run, change(name), {}, (), anyway=anyway)
        assert "anyway=True" not in str(no.value)


@pytest.mark.parametrize("name", ["dim", "n_layers", "context_length", "rope_theta"])
def test_the_sizes_of_a_model_never_change(run, name):
    with pytest.raises(UsageError, match=f"model.{name} is .*, not 32. Leave that out, or start another"):
        train.resume(run, {"steps": STEPS}, {name: 32}, (), anyway=True)


def test_dropout_may_change_with_anyway(run):
    with pytest.raises(UsageError, match=r"model\.dropout is 0\.0, not 0\.5\. Leave that out, add anyway=True"):
        train.resume(run, {"steps": STEPS}, {"dropout": 0.5}, ())
    train.resume(run, {"steps": STEPS, "learning_rate": 1e-9}, {"dropout": 0.5}, (), anyway=True)
    record = newest_record(run)
    assert record.model["dropout"] == 0.5
    [look] = [look for look in records(run / "metrics.jsonl") if look["step"] == STEPS]
    assert look["step_loss"] > look["train_loss"]  # the step was with dropout, the evaluation without


def test_another_optimizer_begins_anew_and_says_so(run, capsys):
    train.resume(run, change("optimizer"), {}, (), anyway=True)
    assert "the state of muon is reset" in capsys.readouterr().out
    train.resume(run, {"optimizer": "adamw", "steps": 12}, {}, (), anyway=True)
    assert "the state of adamw is reset" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["batch_size", "seed", "batches"])
def test_changed_batches_go_on_at_the_same_share_of_the_epoch(run, name):
    train.resume(run, {name: OTHER[name], "steps": 9}, {}, (), anyway=True)
    state = newest_record(run).trainer.batches
    assert state["batches"] == {"batch_size": 5, "seed": 9, "batches": 9}[name]  # 8 of 46, or 4 of 23, and one more
    assert state["seed"] == (7 if name == "seed" else 1)


def test_the_docs_hold_the_table():
    text = DOCS.read_text(encoding="utf-8")
    assert table() in text, f"{DOCS} must hold this:\n\n{table()}"


def test_the_help_names_what_may_change(capsys):
    main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in ANYWAY:
        assert word(name) in said.partition("With --resume: let these change too:")[2]
    assert "May change: steps, epochs, eval-interval" in said


def test_a_recipe_is_refused_with_resume(run, capsys):
    assert main(["train", "--out", str(run), "--resume", "--recipe", "course"]) == 2
    assert "leave --recipe out, and give what is to change" in capsys.readouterr().err


@pytest.fixture
def longer(book, tmp_path) -> Path:
    path = tmp_path / "longer.txt"
    path.write_text(book.read_text() + words(100, seed=5), encoding="utf-8")
    return path


def tokens_of(run: Path) -> str:
    return newest_record(run).tokens


def test_the_same_text_passes_under_any_name(run, book, tmp_path):
    copy = tmp_path / "copy.txt"
    shutil.copy(book, copy)
    train.resume(run, {"steps": STEPS}, {}, (str(copy),))
    assert tokens_of(run) == "tokens"


def test_a_replaced_file_is_named_and_passes_with_anyway(tmp_path, capsys):
    book = tmp_path / "book.txt"
    book.write_text(words(300), encoding="utf-8")
    run = train.start(plan(book), tmp_path / "run")
    book.write_text(words(300, seed=3), encoding="utf-8")
    train.resume(run, {"steps": 9}, {}, ())  # the run has its own tokens
    with pytest.raises(UsageError, match=r"book\.txt \(.* bytes, sha256 .*\) is now .*book\.txt \(.*anyway=True"):
        train.resume(run, {"steps": STEPS}, {}, (str(book),))
    train.resume(run, {"steps": STEPS}, {}, (str(book),), anyway=True)
    assert "resuming with another text" in capsys.readouterr().out
    other = tokens_of(run)
    assert other.startswith("tokens-")
    assert (run / "tokens").is_dir()  # the checkpoint before it still needs them
    train.resume(run, {"steps": 14}, {}, ())  # and without a name it goes on with the new text
    assert tokens_of(run) == other
    train.resume(run, {"steps": 15}, {}, ())
    assert not (run / "tokens").exists()  # no checkpoint needs them any more


def test_more_text_and_another_file_pass_with_anyway_and_are_evaluated_anew(run, book, longer):
    for data in ((str(longer),), (str(book), str(longer))):
        with pytest.raises(UsageError, match=r"the run was trained on another text: .*\.txt .* is new\. "):
            train.resume(run, {"steps": STEPS}, {}, data)
        train.resume(run, {"steps": newest_record(run).step + 2}, {}, data, anyway=True)
        assert newest_record(run).data == list(data)


def test_a_text_that_the_vocabulary_cannot_write_is_refused_and_leaves_nothing(run, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Ω" * 4000, encoding="utf-8")
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(LuthierError, match="Ω"):
        train.resume(run, {"steps": STEPS}, {}, (str(other),), anyway=True)
    assert sorted(path.name for path in run.iterdir()) == before


def test_tokens_that_were_altered_are_named_and_encoded_anew_when_the_text_is_given(run, book):
    shard = run / "tokens" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[40:42] = b"\x03\x00" if content[40:42] != b"\x03\x00" else b"\x04\x00"
    shard.write_bytes(content)
    for anyway in (False, True):
        with pytest.raises(
            LuthierError, match=r"train-00000\.bin: is not as it .* encoded anew: luthier train .*book\.txt"
        ):
            train.resume(run, {"steps": STEPS}, {}, (), anyway=anyway)
    train.resume(run, {"steps": STEPS}, {}, (str(book),))
    assert all(check.passed for check in check_files(run))
    assert (run / tokens_of(run) / "train-00000.bin").read_bytes() != bytes(content)


def test_an_id_beyond_the_vocabulary_is_named_with_shard_and_position(run):
    shard = run / "tokens" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[35] = 0xFF
    shard.write_bytes(content)
    with pytest.raises(LuthierError, match=r"train-00000\.bin: the id at position 17 is 65,\d+, outside the voc"):
        train.resume(run, {"steps": STEPS}, {}, ())
