"""A folder that changes in one go."""

from __future__ import annotations

import pytest

from luthier.errors import LuthierError
from luthier.files.atomic_folder import STAGING, replacing


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
    with pytest.raises(LuthierError, match=r"cannot save into .*: No space left on device"):
        save(tmp_path, config="2", w1="two", w2="two")
    assert "config" not in content(tmp_path), "new weights beside the old config"


def test_what_a_killed_save_left_goes(tmp_path):
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "w9").write_text("half")
    save(tmp_path, config="1")
    assert content(tmp_path) == {"config": "1"}


def test_a_target_that_cannot_be_a_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(LuthierError, match=r"cannot save into .*file"):
        save(tmp_path / "file", config="1")
