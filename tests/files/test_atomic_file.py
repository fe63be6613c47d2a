"""A file that changes in one go, and places that must not change."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.files.atomic_file import PAGE, check_writable, is_special, replacing_file, write_file


def test_missing_folders_are_made_and_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "deep" / "page"
    write_file(path, "one")

    def write_half():
        with replacing_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_followed_and_stays_one(tmp_path):
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    link.symlink_to("real.html")
    write_file(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "to come")
    write_file(dangling, "new")
    assert (tmp_path / "to come").read_text() == "new"


def test_the_mode_of_a_file_that_is_replaced_stays_and_a_new_one_has_that_of_the_umask(tmp_path):
    path = tmp_path / "page"
    write_file(path, "one")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    path.chmod(0o600)
    write_file(path, "two")
    assert path.stat().st_mode & 0o777 == 0o600


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_device_is_written_into(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o20666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        device = Path(os.devnull)
    write_file(device, "gone", begins=PAGE)
    assert device.is_char_device()


def test_a_pipe_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    write_file(pipe, "page" * 100_000)
    reader.join(timeout=60)
    assert heard == ["page" * 100_000]
    assert pipe.is_fifo()


def test_what_stdout_is_redirected_to_is_appended_to(tmp_path):
    code = (
        "from pathlib import Path; from luthier.files.atomic_file import write_file as w; w(Path('/dev/stdout'), 'b')"
    )
    path = tmp_path / "log"
    path.write_text("a")
    with path.open("a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert path.read_text() == "ab"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"b"
    assert not is_special(path)


@pytest.mark.parametrize("check", [check_writable, lambda path, begins: write_file(path, "new", begins=begins)])
def test_a_folder_and_a_file_of_another_kind_are_never_replaced(check, tmp_path):
    folder, weights, page, empty = (tmp_path / name for name in ("folder", "model.gguf", "page.html", "empty"))
    folder.mkdir()
    weights.write_bytes(b"GGUF weights of years")
    page.write_bytes(PAGE + b"an older page")
    empty.touch()
    with pytest.raises(LuthierError, match="is a folder"):
        check(folder, begins=PAGE)
    with pytest.raises(LuthierError, match=r"model.gguf already exists and is a file of another kind"):
        check(weights, begins=PAGE)
    assert weights.read_bytes() == b"GGUF weights of years"
    check(page, begins=PAGE)
    check(empty, begins=PAGE)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_error_names_the_file_and_what_is_wrong(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LuthierError, match=r"cannot write .*file/page: Not a directory"):
        write_file(tmp_path / "file" / "page", "text")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(LuthierError, match="cannot write"):
        write_file(loop, "text")
