"""A run goes on as its checkpoint says: run.toml is a copy, and a damaged record is like any other damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import plan, records

from luthier.cli.main import main
from luthier.errors import LuthierError
from luthier.files.sealed_json import sealed
from luthier.run import train
from luthier.run.checkpoint_record import newest_record, read_record
from luthier.run.plan import read_run
from luthier.run.record import plan_of, read
from luthier.run.verify import check_files

LAST = "checkpoints/step-00000008"


@pytest.fixture(scope="module")
def straight(book, tmp_path_factory):
    return train.start(plan(book, save_interval=2), tmp_path_factory.mktemp("runs") / "straight")


@pytest.fixture
def run(straight, tmp_path):
    return Path(shutil.copytree(straight, tmp_path / "run"))


@pytest.mark.parametrize("content", ["", "\n", "data = [", 'preset = "gpt2-124m"\n', None])
def test_an_empty_or_broken_run_toml_never_means_the_defaults(run, capsys, content):
    path, whole = run / "run.toml", (run / "run.toml").read_text()
    path.unlink() if content is None else path.write_text(content)
    assert plan_of(run).model.dim == 8
    train.resume(run, {"steps": 9}, {}, ())
    assert path.read_text() == whole.replace("steps = 8", "steps = 9")
    said = capsys.readouterr().err
    assert "run.toml is not what the checkpoint was trained with" in said
    assert "the checkpoint's settings are taken" in said


def test_an_edit_of_run_toml_is_named_and_what_the_checkpoint_says_holds(run, straight, tmp_path, capsys):
    path = run / "run.toml"
    edited = (
        path.read_text()
        .replace("learning_rate = 0.01", "learning_rate = 0.5")
        .replace("gradient_accumulation_steps = 1", "gradient_accumulation_steps = 2")
    )
    path.write_text(edited)
    assert [each.name for each in check_files(run) if not each.passed] == ["run.toml says what the checkpoint does"]
    train.resume(run, {"steps": 10}, {}, ())
    said = capsys.readouterr().err
    accumulation = "gradient_accumulation_steps is 2 there, 1 in the checkpoint"
    assert f"({accumulation}; learning_rate is 0.5 there, 0.01 in the checkpoint)" in said
    assert "give it as an option" in said
    assert newest_record(run).settings["learning_rate"] == 0.01
    assert (run / "run.edited.toml").read_text() == edited
    other = train.resume(Path(shutil.copytree(straight, tmp_path / "other")), {"steps": 10}, {}, ())
    name = "checkpoints/step-00000010/model.safetensors"
    assert (run / name).read_bytes() == (other / name).read_bytes()


def test_a_run_of_0_1_with_an_empty_run_toml_is_refused(tmp_path):
    old = Path(shutil.copytree(Path(__file__).parent / "golden_0_1" / "interrupted", tmp_path / "old"))
    whole = (old / "run.toml").read_text()
    for content in ("", whole[:200], whole[: whole.index("[model]") + 30], whole.rstrip()[:-1]):
        (old / "run.toml").write_text(content)
        with pytest.raises(LuthierError, match=r"run\.toml is not whole .* put back the file that the run wrote"):
            train.resume(old, {}, {}, ())
    (old / "run.toml").write_text(whole)
    train.resume(old, {}, {}, ())


def test_run_toml_is_written_whole_or_not_at_all(run, monkeypatch):
    before = (run / "run.toml").read_bytes()

    def full(path, text, **_):
        with path.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        with pytest.raises(LuthierError, match="No space left"):
            train.resume(run, {"steps": 9}, {}, ())
    assert (run / "run.toml").read_bytes() == before


def change(field: str, value: object, seal: bool = False):
    def damage(record):
        place = record
        *path, last = field.split(".")
        for name in path:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return sealed(record) if seal else record

    return damage


DAMAGE = {
    "a changed digit": change("trainer.batches.batches", 7),
    "a changed setting": change("settings.learning_rate", 0.5),
    "an unknown field": change("luck", 3, seal=True),
    "an unknown field within": change("trainer.luck", 3, seal=True),
    "a missing field": change("seconds", None, seal=True),
    "a missing field within": change("trainer.batches.batches", None, seal=True),
    "settings that are gone": change("settings", None, seal=True),
    "a wrong type": change("trainer.step", "8", seal=True),
    "a wrong type in a list": change("losses", [1.0, "2"], seal=True),
    "a negative count": change("trainer.batches.batches", -1, seal=True),
    "another step": change("step", 6, seal=True),
    "no sums": change("sha256", {}, seal=True),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_and_the_checkpoint_before_it_is_taken(run, straight, capsys, damage):
    path = run / LAST / "training_state.json"
    path.write_text(json.dumps(DAMAGE[damage](json.loads(path.read_text()))))
    assert any("step-00000008" in check.figure for check in check_files(run) if not check.passed)
    train.resume(run, {}, {}, ())
    said = capsys.readouterr().err
    assert "step-00000008 cannot be resumed" in said
    assert "going back to the one before" in said
    for name in ("model.safetensors", "training_state.safetensors"):
        assert (run / LAST / name).read_bytes() == (straight / LAST / name).read_bytes()
    assert records(run / "metrics.jsonl") == records(straight / "metrics.jsonl")


@pytest.mark.parametrize("damage", ["an unknown field", "a missing field", "a wrong type", "no sums"])
def test_so_is_a_damaged_record_of_0_1(tmp_path, capsys, damage):
    old = Path(shutil.copytree(Path(__file__).parent / "golden_0_1" / "interrupted", tmp_path / "old"))
    path = old / "checkpoints" / "step-00000007" / "training_state.json"
    record = DAMAGE[damage](json.loads(path.read_text()))
    record.pop("checksum", None)
    path.write_text(json.dumps(record))
    train.resume(old, {}, {}, ())
    assert "step-00000007 cannot be resumed" in capsys.readouterr().err


def test_a_file_that_was_not_written_with_the_checkpoint_is_named(run, capsys):
    shutil.copy(run / LAST / "model.safetensors", run / LAST / "model-00001-of-00001.safetensors")
    train.resume(run, {}, {}, ())
    assert "model-00001-of-00001.safetensors was not written with it" in capsys.readouterr().err


def test_a_checkpoint_of_a_later_version_is_named_and_left_where_it_is(run):
    path = run / LAST / "training_state.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "format": "luthier-checkpoint-9", "luck": 1})))
    with pytest.raises(LuthierError, match=r"was written by another version of Luthier \(luthier-checkpoint-9\)"):
        train.resume(run, {}, {}, ())
    assert path.is_file()


def test_a_run_as_a_recipe_gives_what_its_checkpoint_says(run):
    (run / "run.toml").write_text("")
    assert read_run(run)["learning_rate"] == 0.01


def test_the_record_says_all_that_the_run_was(run):
    record = read_record(run / LAST)
    assert record.total_steps == 8
    assert record.decisions.device == "cpu"
    assert record.decisions.processes == 1
    assert not record.decisions.compiled


def test_a_first_checkpoint_is_there_before_the_first_step(book, tmp_path, monkeypatch):
    def stops(run):
        raise SystemExit(9)

    with monkeypatch.context() as killed:
        killed.setattr(train.Run, "one_step", stops)
        with pytest.raises(SystemExit):
            train.start(plan(book), tmp_path / "run")
    for thread in __import__("threading").enumerate():
        if thread.name == "writer":
            thread.join()
    train.resume(tmp_path / "run", {}, {}, ())
    assert [each["step"] for each in records(tmp_path / "run" / "metrics.jsonl")] == [0, 3, 4, 6, 8]


BAD = ["[]", "null", "3", '{"step": "3"}', '{"step": tr', '{"epoch": 0.5}', "{" * 100_000, '{"step": true}', "\udcff"]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_line_of_the_metrics_is_skipped_kept_aside_and_said(run, straight, capsys, line):
    path = run / "metrics.jsonl"
    before = path.read_bytes().splitlines(keepends=True)
    bad = line.encode("utf-8", "surrogateescape") + b"\n"
    path.write_bytes(b"".join([before[0], bad, *before[1:]]))
    assert [each["step"] for each in read(run).evaluations] == [0, 3, 4, 6, 8]
    train.resume(run, {"steps": 9}, {}, ())
    assert path.read_bytes().startswith(b"".join(before))
    assert [each["step"] for each in records(path)] == [0, 3, 4, 6, 8, 9]
    assert (run / "metrics.damaged.jsonl").read_bytes() == bad
    assert "a line is no record (cut off or damaged); put into metrics.damaged.jsonl" in capsys.readouterr().err


def test_verify_names_a_changed_record(run, capsys):
    path = run / LAST / "training_state.json"
    path.write_text(path.read_text().replace('"batches": 8', '"batches": 7'))
    assert main(["verify", str(run)]) == 1
    assert "training_state.json is damaged (its checksum is not that of its contents)" in " ".join(
        capsys.readouterr().out.split()
    )
