"""Folders for downloads and for compiled code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luthier.files import user_folders
from luthier.files.unfinished import is_unfinished, scratch_folder


def test_downloads_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    assert user_folders.downloads() == tmp_path
    monkeypatch.delenv("LUTHIER_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folders.downloads() == tmp_path / ".cache" / "luthier"


def test_a_private_folder_is_made_for_its_user_alone(tmp_path):
    folder = user_folders.private(tmp_path / "cache" / "luthier", "compile")
    assert folder == tmp_path / "cache" / "luthier" / "compile"
    assert [path.stat().st_mode & 0o077 for path in (folder, folder.parent)] == [0, 0]


@pytest.mark.parametrize("open_to_others", ["luthier", "luthier/compile"])
def test_a_folder_that_others_can_write_is_refused(tmp_path, open_to_others):
    user_folders.private(tmp_path / "luthier", "compile")
    (tmp_path / open_to_others).chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others: chmod go-w"):
        user_folders.private(tmp_path / "luthier", "compile")


def test_a_link_of_the_user_to_a_folder_of_the_user_is_theirs(tmp_path):
    (tmp_path / "large-disk").mkdir(mode=0o700)
    (tmp_path / "luthier").symlink_to("large-disk")
    user_folders.private(tmp_path / "luthier", "compile")
    assert (tmp_path / "large-disk" / "compile").is_dir()
    if os.getuid() == 0:
        os.lchown(tmp_path / "luthier", 12345, -1)
        with pytest.raises(PermissionError, match="another user's"):
            user_folders.private(tmp_path / "luthier", "compile")


def test_a_scratch_folder_is_read_by_its_user_alone_and_cleared_after_a_kill(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / ".luthier-plan.0123abcd.unfinished"
    left.mkdir()
    (left / "tokens").write_text("of a process that was killed")
    with scratch_folder("plan") as folder:
        assert is_unfinished(folder)
        assert folder.stat().st_mode & 0o077 == 0
        assert list(Path(tmp_path).iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
