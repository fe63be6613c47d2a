"""`luthier get`, against a server on this machine that has a tiny GPT-2."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from luthier.architectures import gpt2 as our_gpt2
from luthier.cli import get as command
from luthier.errors import LuthierError
from luthier.model_files import download_gpt2 as module
from luthier.model_files import openai
from parity.peers import VOCAB, gpt2, tokens
from writers.tensorflow import write_openai_folder

DATA = "model.ckpt.data-00000-of-00001"
VOCABULARY = {"encoder.json": b'{"a": 0}', "vocab.bpe": b"#version\n"}


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path.rpartition("/")[2])
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def peer():
    return gpt2()


@pytest.fixture
def server(tmp_path, monkeypatch, peer):
    """OpenAI's storage, as far as this machine goes: where it is, its folder, and what was asked of it."""
    folder = tmp_path / "server/124M"
    write_openai_folder(folder, peer)
    (folder / "model.ckpt.meta").write_bytes(b"graph")
    for name, content in VOCABULARY.items():
        (folder / name).write_bytes(content)
    handler = type("Here", (Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "server"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(module, "SOURCE", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(
            module, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in VOCABULARY.items()}
        )
        monkeypatch.setitem(our_gpt2.SIZES, "gpt2-124m", our_gpt2.Config(VOCAB, 64, 24, 2, 3))
        yield SimpleNamespace(folder=folder, asked=handler.asked)
        server.shutdown()


@torch.no_grad()
def test_a_model_arrives_whole_and_opens(server, tmp_path, monkeypatch, capsys, peer):
    monkeypatch.chdir(tmp_path)
    assert command.main(["gpt2-124m"]) == 0
    assert "wrote gpt2-124m" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "gpt2-124m").iterdir()) == sorted(module.FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2-124m", "server"]
    for name in VOCABULARY:  # of no use: the ids would be others than the model's
        (tmp_path / "gpt2-124m" / name).unlink()
    model = openai.read(tmp_path / "gpt2-124m", torch.device("cpu"), None).model.eval()
    assert_close(model(tokens()), peer(tokens()).logits, atol=1e-4, rtol=0)


def test_a_stopped_download_goes_on_with_the_file_that_it_was_at(server, tmp_path, monkeypatch):
    missing = (server.folder / DATA).rename(tmp_path / "away")
    out = tmp_path / "models/small"
    with pytest.raises(LuthierError, match=rf"{DATA}: 404 .*fetch the files elsewhere and put them into .*small: "):
        module.fetch("gpt2-124m", out)
    assert not out.exists()
    missing.rename(server.folder / DATA)
    server.asked.clear()
    module.fetch("gpt2-124m", out)
    assert server.asked == [DATA]
    assert openai.recognizes(out)
    assert [path.name for path in out.parent.iterdir()] == ["small"]


@pytest.mark.parametrize("name", ["model.ckpt.index", DATA])
def test_damaged_numbers_are_found_and_nothing_is_kept(name, server, tmp_path):
    content = bytearray((server.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (server.folder / name).write_bytes(content)
    with pytest.raises(LuthierError, match=r"nothing was kept, try again"):
        module.fetch("gpt2-124m", tmp_path / "out/model")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_vocabulary_is_found(server, tmp_path):
    (server.folder / "vocab.bpe").write_bytes(b"#other")
    with pytest.raises(LuthierError, match=r"vocab\.bpe: wrong sha256"):
        module.fetch("gpt2-124m", tmp_path / "out")


def test_another_model_under_this_name_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(our_gpt2.SIZES, "gpt2-124m", our_gpt2.Config(VOCAB, 64, 48, 2, 3))
    with pytest.raises(LuthierError, match=r"hparams\.json is not that of gpt2-124m"):
        module.fetch("gpt2-124m", tmp_path / "out")


def test_what_is_there_is_not_overwritten(server, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(LuthierError, match="out is already there: name another folder with out"):
        command.main(["gpt2-124m", "--out", str(tmp_path / "out")])
    assert server.asked == []
    (tmp_path / "out/mine").unlink()
    assert command.main(["gpt2-124m", "--out", str(tmp_path / "out")]) == 0


def test_without_a_network_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SOURCE", "http://127.0.0.1:9")
    with pytest.raises(LuthierError, match=r"cannot download .*refused.*checkpoint, hparams.json, .* from http://127"):
        module.fetch("gpt2-774m", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["gpt2-1t"])
    assert end.value.code == 2
    assert "gpt2-124m" in capsys.readouterr().err


def test_every_model_is_a_preset_and_is_published_by_openai():
    from luthier.architectures import registry

    assert set(module.SIZES) <= set(registry.presets())
    assert module.SOURCE.startswith("https://openaipublic.blob.core.windows.net/gpt-2/")
