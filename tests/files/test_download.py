from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.files import download as downloading
from luthier.files.download import download

BODY = b"Il y a deux histoires. " * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One path for each thing that can go wrong."""

    def do_GET(self) -> None:
        if self.path == "/missing":
            return self.send_error(404)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header(
                "Location", {"/to/good": "/good", "/to/ftp": "ftp://127.0.0.1/x"}.get(self.path, "http://example.com/x")
            )
            return self.end_headers()
        body = {"/longer": BODY + b"!", "/other": BODY.replace(b"deux", b"dix_")}.get(self.path, BODY)
        self.send_response(200)
        if self.path != "/sizeless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch(url: str, target: Path, sha256: str = SHA256) -> None:
    download(url, target, sha256=sha256, size=len(BODY))


@pytest.mark.parametrize("path", ["/good", "/to/good"])
def test_a_file_arrives_whole_under_its_name(server, tmp_path, path):
    fetch(server + path, tmp_path / "new/folder/story.txt")
    assert (tmp_path / "new/folder/story.txt").read_bytes() == BODY
    assert [p.name for p in (tmp_path / "new/folder").iterdir()] == ["story.txt"]


def test_without_a_known_size_and_digest_the_servers_size_counts(server, tmp_path):
    download(server + "/good", tmp_path / "x", sha256=None, size=None)
    assert (tmp_path / "x").read_bytes() == BODY
    with pytest.raises(LuthierError, match=r"ended after|IncompleteRead"):
        download(server + "/cut", tmp_path / "y", sha256=None, size=None)
    with pytest.raises(LuthierError, match="does not say how large it is"):
        download(server + "/sizeless", tmp_path / "y", sha256=None, size=None)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/other", f"wrong sha256: expected {SHA256}, got"),
        ("/longer", "larger than the 115,000 bytes"),
        ("/cut", "ended after 57,500 of 115,000 bytes|IncompleteRead"),
        ("/missing", "404 Not Found"),
        ("/to/ftp", "not an https address"),
        ("/to/plain", r"http://example\.com/x: not an https address"),
    ],
)
def test_a_wrong_download_leaves_what_was_there(server, tmp_path, path, complaint):
    target = tmp_path / "story.txt"
    target.write_text("the old one")
    with pytest.raises(LuthierError, match=complaint):
        fetch(server + path, target)
    assert target.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        assert list(tmp_path.glob(".story.txt.*.unfinished")), "the bytes go to a hidden name first"
        raise KeyboardInterrupt

    monkeypatch.setattr(downloading, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server + "/good", tmp_path / "story.txt")
    assert list(tmp_path.iterdir()) == []


def test_only_https_is_spoken_beyond_this_machine(tmp_path):
    for url in ("http://example.com/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1.example.com/x"):
        with pytest.raises(LuthierError, match="not an https address"):
            fetch(url, tmp_path / "x")


def test_no_server_is_one_clear_line(tmp_path):
    with pytest.raises(LuthierError, match=r"cannot download http://127\.0\.0\.1:9/x: .*refused"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LuthierError, match=r"cannot write .*file/x"):
        fetch(server + "/good", tmp_path / "file/x")
