"""Detect by its first bytes a file that is not what its name says."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError

FIRST_BYTES = 512
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def check_download(path: Path) -> None:
    """Raise a LuthierError for a Git LFS pointer, or a web page saved instead of the file."""
    try:
        with path.open("rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError:  # the reader of the file raises the error
        return
    if start.startswith(LFS):
        raise LuthierError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or download it"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        raise LuthierError(f"{path} is a web page (HTML), not the file that its name says: download it again")
