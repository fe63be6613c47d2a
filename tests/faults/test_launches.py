"""What a launch may remove: what it made itself, also when torchrun starts its processes again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import plan

from luthier.errors import LuthierError
from luthier.files.unfinished import is_unfinished
from luthier.run import launch, train
from luthier.run.folder import RunFolder
from luthier.training.distributed import ALONE


@pytest.fixture
def restart(monkeypatch):
    """This process as torchrun has started it: for the first time, or again."""

    def started(count: int, run_id: str = "job") -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))

    return started


def content(folder: Path) -> dict[str, bytes]:
    """All files in a folder but its lock, and what they hold."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_folder_of_somebody_else_is_refused_at_every_restart(book, tmp_path, restart, count):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("years")
    restart(count)
    with pytest.raises(LuthierError, match=r"d exists: name another folder \(out\)"):
        train.start(plan(book, steps=1), tmp_path / "d")
    assert content(tmp_path / "d") == {"thesis.tex": b"years"}
    assert not (tmp_path / "d" / ".lock").exists()


def test_another_run_is_not_gone_on_with_at_a_restart(book, tmp_path, restart):
    out = train.start(plan(book, steps=2, save_interval=1), tmp_path / "run")
    before = content(out)
    restart(1)
    with pytest.raises(LuthierError, match="exists: go on with resume"):
        train.start(plan(book, steps=9), out)
    assert content(out) == before


def test_a_restart_goes_on_with_the_run_of_its_own_launch(book, tmp_path, restart, monkeypatch, capsys):
    restart(0)
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr("luthier.run.callbacks.sample.Sample.sample", lambda _: 1 / 0)  # at step 4
        with pytest.raises(ZeroDivisionError):
            train.start(plan(book, save_interval=1), out)
    restart(1)
    train.start(plan(book, save_interval=1), out)
    assert "resuming from" in capsys.readouterr().out
    restart(1, "another job")
    with pytest.raises(LuthierError, match="exists"):
        train.start(plan(book, save_interval=1), out)


def test_a_restart_before_the_first_checkpoint_begins_anew(book, tmp_path, restart, monkeypatch):
    restart(0)
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr("luthier.run.training_run.Run.train", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.start(plan(book, steps=2), out)
    assert (out / "run.toml").exists()
    restart(1)
    train.start(plan(book, steps=2), out)
    assert RunFolder(out).whole_checkpoints()


@pytest.mark.parametrize("count", [0, 1])
def test_a_launch_that_fails_early_leaves_what_was_there_and_nothing_else(tmp_path, restart, monkeypatch, count):
    restart(count)
    nothing = plan(tmp_path / "no-such.txt")
    with pytest.raises(LuthierError, match=r"no-such\.txt"):
        train.start(nothing, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(LuthierError, match=r"no-such\.txt"):
        train.start(nothing, Path())
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not list(Path().iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LuthierError, match="exists: name another folder"):
        train.start(nothing, Path())
    assert (tmp_path / "empty").is_dir()


def test_what_a_person_put_beside_a_run_that_fails_stays(book, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def fail(*_: object) -> None:
        (out / "notes.txt").write_text("mine")
        raise LuthierError("no room")

    monkeypatch.setattr("luthier.run.cost.check", fail)
    with pytest.raises(LuthierError, match="no room"):
        train.start(plan(book), out)
    assert content(out) == {"notes.txt": b"mine"}


def killed_while_preparing(book: Path, out: Path) -> None:
    """A launch of another process that dies (-9) when its tokens are half written."""
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tiny_runs import plan
from luthier.data import prepare
from luthier.run import train
prepare.ShardWriter.finish = lambda _: os.kill(os.getpid(), signal.SIGKILL)
train.start(plan(Path({str(book)!r})), Path({str(out)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_does_not_block_its_name(book, tmp_path, capsys):
    out = tmp_path / "run"
    killed_while_preparing(book, out)
    assert any(is_unfinished(path) for path in out.iterdir())
    (out / "notes.txt").write_text("mine")
    with pytest.raises(LuthierError, match=r"holds a file that no run wrote \(notes.txt\)"):
        train.start(plan(book), out)
    (out / "notes.txt").unlink()
    train.start(plan(book), out)
    assert "before its first checkpoint; it is started again" in capsys.readouterr().out
    assert not [path for path in out.rglob("*") if is_unfinished(path)]


def test_weights_of_a_run_that_cannot_go_on_are_never_removed(book, tmp_path):
    out = train.start(plan(book, steps=2), tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    before = content(out)
    with pytest.raises(LuthierError, match="holds weights of a run that stopped before its first checkpoint"):
        train.start(plan(book), out)
    assert content(out) == before


def test_a_launch_is_known_by_its_id_and_by_who_started_it(restart):
    restart(1)
    ours = launch.this_launch(ALONE)
    assert ours.is_same(launch.this_launch(ALONE))
    assert str(os.getppid()) in ours.starters[0].split()
    assert not ours.is_same(launch.Launch("job", (launch.process_name(os.getpid()),)))
    restart(1, "none")
    assert not ours.is_same(launch.this_launch(ALONE))


def test_checkpoints_that_were_half_removed_go_with_the_next_save(book, tmp_path):
    out = train.start(plan(book, save_interval=1, steps=3), tmp_path / "run")
    checkpoints = out / "checkpoints"
    shutil.copytree(checkpoints / "step-00000003", checkpoints / "step-00000001")
    (checkpoints / "step-00000001" / "training_state.json").unlink()  # as version 0.1 left it when it was killed
    shutil.copytree(checkpoints / "step-00000003", checkpoints / ".step-00000001.0123abcd.unfinished")
    (checkpoints / "step-mine").mkdir()
    train.resume(out, {"steps": 4}, {}, ())
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000003", "step-00000004", "step-mine"]
