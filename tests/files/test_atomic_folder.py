"""A folder that changes in one go."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from luthier.errors import LuthierError
from luthier.files.atomic_folder import OLD_STAGING, is_free, replacing


def save(folder, **files):
    with replacing(folder, stale=("w*",), last="config") as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_new_files_come_and_stale_ones_go_and_others_stay(tmp_path):
    folder = tmp_path / "deep" / "model"
    save(folder, config="1", w1="one", w2="two")
    (folder / "notes").write_text("mine")
    save(folder, config="2", w1="new")
    assert content(folder) == {"config": "2", "w1": "new", "notes": "mine"}


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_folder_as_it_was(fault, tmp_path):
    save(tmp_path, config="1", w="one")

    def save_half():
        with replacing(tmp_path, stale=("w*",), last="config") as staging:
            (staging / "w").write_text("half")
            raise fault

    with pytest.raises(fault):
        save_half()
    assert content(tmp_path) == {"config": "1", "w": "one"}


def test_a_stop_between_two_files_leaves_no_mix(tmp_path, monkeypatch):
    save(tmp_path, config="1", w1="one", w2="one")
    moved = []

    def stop_after_first(self, target):
        if moved:
            raise OSError(28, "No space left on device")
        moved.append(target)
        target.write_text(self.read_text())

    monkeypatch.setattr("pathlib.Path.replace", stop_after_first)
    with pytest.raises(LuthierError, match=r"cannot write .*: No space left on device"):
        save(tmp_path, config="2", w1="two", w2="two")
    assert "config" not in content(tmp_path), "new weights beside the old config"


def killed_save(folder):
    """Another process that is killed (-9) while it saves into a folder."""
    code = f"""
import os, signal
from pathlib import Path
from luthier.files.atomic_folder import replacing
with replacing(Path({str(folder)!r}), stale=(), last="config") as staging:
    (staging / "w9").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_what_a_killed_save_left_goes(tmp_path):
    killed_save(tmp_path)
    (tmp_path / OLD_STAGING).mkdir()
    (tmp_path / OLD_STAGING / "w9").write_text("half")
    assert len(list(tmp_path.iterdir())) == 2
    save(tmp_path, config="1")
    assert content(tmp_path) == {"config": "1"}


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    new = tmp_path / "deep" / "new"
    killed_save(new)
    assert not new.exists()
    assert is_free(new)
    save(new, config="1")
    assert content(new) == {"config": "1"}
    assert [path.name for path in new.parent.iterdir()] == ["new"]


def test_a_save_that_fails_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(LuthierError), replacing(tmp_path / "new", stale=(), last="config"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_free_also_when_a_save_was_killed_in_it(tmp_path):
    killed_save(tmp_path)
    assert is_free(tmp_path)
    (tmp_path / "mine").touch()
    assert not is_free(tmp_path)
    assert not is_free(tmp_path / "mine")


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new")
    save(tmp_path / "link", config="1")
    save(tmp_path / "link", config="2")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "new") == {"config": "2"}


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_changes(tmp_path):
    save(tmp_path, config="1", a="1")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine").touch()
    with pytest.raises(LuthierError, match="w in it is a folder"):
        save(tmp_path, config="2", a="2", w="2")
    assert (tmp_path / "w" / "mine").exists()
    assert {name: (tmp_path / name).read_text() for name in ("config", "a")} == {"config": "1", "a": "1"}


def test_a_target_that_cannot_be_a_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(LuthierError, match=r"cannot write .*file"):
        save(tmp_path / "file", config="1")
