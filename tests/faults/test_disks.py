"""Disks that are full, folders that cannot be written, files that are damaged, saves that fail."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from tiny_runs import plan, records

from luthier.errors import LuthierError
from luthier.run import train
from luthier.run.folder import RunFolder


def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint_whole(book, small_disk, tmp_path):
    out = small_disk / "run"
    train.start(plan(book, steps=4, save_interval=1), out)
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 6000))
    with pytest.raises(LuthierError, match=r"cannot (be written|save)|No space left"):
        train.resume(out, {"steps": 12}, {}, ())
    assert not list((out / "checkpoints").glob(".*"))
    (small_disk / "filler").unlink()
    train.resume(out, {"steps": 12}, {}, ())
    straight = train.start(plan(book, steps=4, save_interval=1), tmp_path / "straight")
    train.resume(straight, {"steps": 12}, {}, ())
    name = "checkpoints/step-00000012/model.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(book, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LuthierError, match=r"run cannot be written: Read-only"):
        train.start(plan(book), small_disk / "run")


def test_a_save_that_fails_in_the_background_stops_the_run_at_the_next_step(book, tmp_path, monkeypatch):
    whole = RunFolder.save_checkpoint

    def save(folder, lm, tensors, record, keep):
        if record["step"] == 4:
            raise LuthierError("the disk is on fire")
        return whole(folder, lm, tensors, record, keep)

    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "save_checkpoint", save)
        with pytest.raises(LuthierError, match="the disk is on fire"):
            train.start(plan(book, save_interval=2), tmp_path / "run")
    assert [look["step"] for look in records(tmp_path / "run" / "metrics.jsonl")][-1] <= 6
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*2")] == ["step-00000002"]
    assert not list((tmp_path / "run" / "checkpoints").glob("*4*"))
    train.resume(tmp_path / "run", {}, {}, ())


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(book, tmp_path, capsys, damage, name):
    straight = train.start(plan(book, save_interval=2), tmp_path / "straight")
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    path = out / "checkpoints" / "step-00000008" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    train.resume(out, {}, {}, ())
    warning = capsys.readouterr().err
    assert "step-00000008" in warning
    assert name in warning
    assert "going back to the one before" in warning
    for kept in ("step-00000006", "step-00000008"):
        file = f"checkpoints/{kept}/model.safetensors"
        assert (out / file).read_bytes() == (straight / file).read_bytes()
    assert records(out / "metrics.jsonl") == records(straight / "metrics.jsonl")


def test_as_many_checkpoints_are_kept_as_was_asked_for(book, tmp_path):
    out = train.start(plan(book, save_interval=1, keep_checkpoints=3), tmp_path / "run")
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000007", "step-00000008"]
