"""What is not finished: hidden, locked while its process lives, cleared by the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.files.unfinished import is_unfinished, remove_folder, scratch_folder, unfinished

HOLDS = """
import sys
from pathlib import Path
from pathlib import Path
from luthier.files.unfinished import unfinished
with unfinished(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_process_writes_stays_and_what_a_dead_one_left_goes(kind, tmp_path):
    target = tmp_path / "model"
    command = [sys.executable, "-c", HOLDS, str(target), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        theirs = Path(other.stdout.readline().strip())
        with unfinished(target, folder=kind == "folder") as ours:
            assert ours.is_dir() == (kind == "folder")
            assert theirs.exists()
        assert not ours.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert theirs.exists()
        with unfinished(target):
            assert not theirs.exists()
    assert not list(tmp_path.iterdir())


def test_only_names_of_ours_are_cleared(tmp_path):
    mine = [".model.part", ".model.0123abcd", "model.0123abcd.unfinished", ".model2.0123abcd.unfinished", ".model"]
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / ".model.0123abcd.unfinished").symlink_to(tmp_path / ".model")
    with unfinished(tmp_path / "model") as path:
        assert is_unfinished(path)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, ".model.0123abcd.unfinished"}


def test_the_longest_name_that_a_disk_takes_can_be_written(tmp_path):
    target = tmp_path / ("é" * 127)
    with unfinished(target) as path:
        path.write_text("whole")
        path.replace(target)
    assert target.read_text() == "whole"


def test_a_folder_that_is_removed_leaves_its_name_first(tmp_path, monkeypatch):
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "weights").touch()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed there
    remove_folder(tmp_path / "step-1")
    assert all(is_unfinished(path) for path in tmp_path.iterdir())
    monkeypatch.undo()
    with unfinished(tmp_path / "step-1"):
        pass
    assert not list(tmp_path.iterdir())


def test_scratch_of_a_dead_process_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".luthier-figures.0123abcd.unfinished").mkdir()
    with scratch_folder("figures") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())
