"""What a verb writes: on a full disk, with too little memory, killed. The same command then works again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import plan

from luthier.cli.main import main
from luthier.run import train


@pytest.fixture
def run(book, tmp_path) -> Path:
    return train.start(plan(book, steps=1), tmp_path / "run")


def commands(run: Path, book: Path, out: Path) -> dict[str, list[str]]:
    return {
        "convert hf": ["convert", str(run), str(out / "hf"), "--to", "hf"],
        "convert gguf": ["convert", str(run), str(out / "model.gguf"), "--to", "gguf"],
        "convert meta": ["convert", str(run), str(out / "meta"), "--to", "meta"],
        "prepare": ["data", "prepare", str(book), "--tokenizer", str(run), "--out", str(out / "tokens")],
        "tokenizer": ["tokenizer", "train", str(book), "--out", str(out / "bpe"), "--vocab-size", "300"],
        "report": ["report", str(run), "--out", str(out / "page.html")],
    }


VERBS = list(commands(Path(), Path(), Path()))


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_leaves_nothing_and_the_retry_works(run, book, small_disk, capsys, verb):
    command = commands(run, book, small_disk)[verb]
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "unexpected" not in said
    assert list(small_disk.iterdir()) == [filler]
    filler.unlink()
    assert main(command) == 0
    assert len(list(small_disk.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_process_killed_while_it_writes_leaves_nothing_that_blocks_the_retry(run, book, tmp_path, verb):
    out = tmp_path / "out"
    out.mkdir()
    command = commands(run, book, out)[verb]
    killed = f"""
import os, signal
from luthier.files import atomic_file, atomic_folder
from luthier.cli.main import main
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
atomic_file.sync = atomic_folder.sync_folder = die
main({command!r})
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    assert [path.name[0] for path in out.iterdir()] == ["."], "what is not whole is hidden"
    assert main(command) == 0
    assert len(list(out.iterdir())) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_too_little_memory_leaves_nothing(run, book, tmp_path, monkeypatch, capsys, verb):
    out = tmp_path / "out"
    out.mkdir()

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("luthier.files.atomic_file.sync", no_memory)
        broken.setattr("luthier.files.atomic_folder.sync_folder", no_memory)
        assert main(commands(run, book, out)[verb]) == 1
    assert not list(out.iterdir())
    assert main(commands(run, book, out)[verb]) == 0


@pytest.mark.parametrize("verb", ["convert hf", "convert meta", "prepare", "tokenizer"])
def test_what_is_there_is_not_touched(run, book, tmp_path, capsys, verb):
    out = tmp_path / "out"
    command = commands(run, book, out)[verb]
    place = next(Path(word) for word in command if word.startswith(str(out)))
    place.mkdir(parents=True)
    (place / "config.json").write_text("mine")
    assert main(command) == (1 if verb == "prepare" else 2)
    assert [path.read_text() for path in place.iterdir()] == ["mine"]


def test_a_page_goes_into_a_device_and_through_a_link(run, tmp_path):
    device, link = Path("/dev/null"), tmp_path / "link.html"
    link.symlink_to("page.html")
    assert main(["report", str(run), "--out", str(device)]) == 0
    assert device.is_char_device()
    assert main(["report", str(run), "--out", str(link)]) == 0
    assert link.is_symlink()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert main(["report", str(run), "--out", str(run / "model.safetensors")]) == 1
    assert main(["report", str(run), "--out", str(tmp_path)]) == 1
