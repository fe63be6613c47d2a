"""Models by their name on the hub, from a server on this machine that speaks as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier.errors import UsageError
from luthier.model_files import hub

REVISION = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"tokens",
    "model.gguf": b"GGUF",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"code",
    "original/model.safetensors": b"the same weights in another form",
}


class Hub(BaseHTTPRequestHandler):
    """The few pages that a download asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        headers, code, data = {}, 200, b"{}"
        name = path.removeprefix(f"/org/name/resolve/{REVISION}/").removeprefix("/org/name/resolve/main/")
        if path == "/api/models/org/name/revision/main":
            listed = [{"rfilename": name} for name in FILES]
            data = json.dumps({"id": "org/name", "sha": REVISION, "siblings": listed}).encode()
        elif path.startswith("/api/models/org/name/tree/"):
            entries = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in FILES.items()]
            data = json.dumps(entries).encode()
        elif name in FILES:
            data = FILES[name]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": REVISION}
        else:
            code, headers = 404, {"X-Error-Code": "RepoNotFound"}
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(name: str, home: Path, **environment: str) -> str:
    """In a process of its own: the library reads its environment once."""
    code = (
        "import sys\nfrom luthier.errors import LuthierError\nfrom luthier.model_files import hub\n"
        "try: print(hub.fetch(sys.argv[1]))\nexcept LuthierError as error: print('error:', error)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {**clean, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code, name], env=settings, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_model_is_fetched_once_and_without_what_could_hold_code(address: str, tmp_path: Path) -> None:
    folder = Path(fetch("hf:org/name", tmp_path, HF_ENDPOINT=address))
    assert folder.is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    assert Path(fetch("hf:org/name", tmp_path, HF_HUB_OFFLINE="1")) == folder


def test_one_file_of_a_model_can_be_named(address: str, tmp_path: Path) -> None:
    assert Path(fetch("hf:org/name/model.gguf", tmp_path, HF_ENDPOINT=address)).read_bytes() == FILES["model.gguf"]


def test_what_the_hub_does_not_have_is_one_line(address: str, tmp_path: Path) -> None:
    said = fetch("hf:org/other", tmp_path, HF_ENDPOINT=address)
    assert said == "error: hf:org/other: the hub has no such model or file; if it is private, set HF_TOKEN"


def test_offline_the_way_out_is_named(tmp_path: Path) -> None:
    said = fetch("hf:org/name", tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("error: hf:org/name: the hub cannot be reached")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:../../etc", "hf:a/b/c", "hf:org/name/../x.gguf@", "hf:o/n@"])
def test_what_is_no_name_says_so(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name on the hub"):
        hub.fetch(name)
