from __future__ import annotations

import gzip
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luthier.data import decoding, records, text
from luthier.data.finding import find_files
from luthier.data.text import Piece, join
from luthier.errors import LuthierError

from .reading import read_documents, read_pieces

# what is hard to cut: marks that combine, Hangul letters that join, line ends, halves of Katakana, Chinese, ASCII
HARD = (
    "\r\n\x0c\x85\t x\x00\ufeffe\u0301\u0323a\u1100\u1161\u11a8\uff76\uff9e\u30ab\u3099\ufb01\u4e2d\u09c7\u09be\u212b"
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BLOCK", 3)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("form", ["NFC", "NFKC", "none"])
@given(content=st.text(st.sampled_from(HARD) | st.characters(exclude_categories=["Cs"]), max_size=60))
def test_pieces_joined_are_the_document_cleaned_whole(tmp_path_factory, form, content):
    assume(content.count("\x00") <= 1)  # with more of them it may be taken for UTF-16
    path = write(tmp_path_factory.getbasetemp() / "pieces.txt", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BLOCK", 3)
        pieces = list(read_pieces(path, normalization=form))
    expected = re.sub("\r\n?|[\x0b\x0c\x1c-\x1f\x85]", "\n", content)
    expected = "".join(c for c in expected if c in "\n\t" or unicodedata.category(c) != "Cc").lstrip("\ufeff")
    expected = expected if form == "none" else unicodedata.normalize(form, expected)
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)
    assert text.clean(content, form) == expected


@pytest.mark.usefixtures("small_blocks")
def test_a_long_text_comes_in_small_pieces(tmp_path):
    path = write(tmp_path / "long.txt", "one two three\n" * 100)
    pieces = list(read_pieces(path))
    assert max(len(piece.text) for piece in pieces) < 20
    assert list(join(pieces)) == ["one two three\n" * 100]


def test_every_kind_of_file_is_read_and_decompressed(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lines = "".join(json.dumps({"story": story, "n": 1}) + "\n" for story in ("deux é\r\n", "", "trois")) + "\n"
    write(tmp_path / "a.txt", "un")
    write(tmp_path / "b.txt.gz", gzip.compress("ünó".encode()))
    write(tmp_path / "c.jsonl", lines)
    write(tmp_path / "d.jsonl.gz", gzip.compress(lines.encode()))
    pq.write_table(pa.table({"story": ["quatre", None, "cinq"], "n": [1, 2, 3]}), tmp_path / "e.parquet")
    write(tmp_path / "f.parquet.gz", gzip.compress((tmp_path / "e.parquet").read_bytes()))
    write(tmp_path / "g.MD", "# six")
    assert list(read_documents(tmp_path, field="story")) == [
        *("un", "ünó", "deux é\n", "trois", "deux é\n", "trois", "quatre", "cinq", "quatre", "cinq", "# six")
    ]


def test_folders_and_globs_give_sorted_files_each_once(tmp_path):
    wanted = [write(tmp_path / name, "x") for name in ("a.txt", "b/c.md", "b/d.jsonl.gz")]
    for other in ("b/image.png", ".hidden/e.txt", "b/.f.txt"):
        write(tmp_path / other, "x")
    assert find_files(tmp_path) == wanted
    assert find_files([tmp_path / "a.txt", tmp_path]) == wanted
    assert find_files(str(tmp_path / "**/*.md")) == [wanted[1]]
    assert find_files([tmp_path / "b/d.jsonl.gz", str(tmp_path / "a*")]) == [wanted[2], wanted[0]]


def test_a_named_file_of_unknown_suffix_is_plain_text(tmp_path):
    assert list(read_documents(write(tmp_path / "notes.rst", "hello"))) == ["hello"]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_that_are_not_utf8_are_named_by_file_and_offset(tmp_path, compressed):
    content = "naïve ".encode() * 3 + b"caf\xe9!"
    path = write(
        tmp_path / ("bad.txt.gz" if compressed else "bad.txt"), gzip.compress(content) if compressed else content
    )
    with pytest.raises(LuthierError, match=rf"bad\.txt.*byte {content.index(0xE9)} \(0xe9\).*replace"):
        list(read_documents(path))
    assert list(read_documents(path, invalid="replace")) == ["naïve " * 3 + "caf\ufffd!"]


def test_a_character_cut_by_the_end_of_the_file_is_an_error(tmp_path):
    with pytest.raises(LuthierError, match=r"byte 3 \(0xc3\)"):
        list(read_documents(write(tmp_path / "cut.txt", "abcé".encode()[:-1])))


def test_utf16_is_named_as_such(tmp_path):
    with pytest.raises(LuthierError, match="UTF-16"):
        list(read_documents(write(tmp_path / "wide.txt", "hello".encode("utf-16"))))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a"}\n{"text": 3}\n', r"line 2: the field 'text' holds a number \(3\), not text.*'text'.*(field)"),
        ('{"body": "a"}\n', "line 1: no field 'text': there are 'body'; .*(field)"),
        ("[1]\n", r"line 1: a list of 1 \(\[1\]\), neither an object"),
        ('{"text": "a"\n', "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        (b'{"text": "ab"}\n{"text": "\xff"}', r"byte 25 \(0xff\)"),
        (r'{"text": "a\ud83d"}', r"line 1: character 1 \(\\ud83d\) is half of a surrogate pair"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, content, complaint):
    with pytest.raises(LuthierError, match=complaint):
        list(read_documents(write(tmp_path / "bad.jsonl", content)))


def test_half_a_surrogate_pair_can_be_replaced(tmp_path):
    path = write(tmp_path / "half.jsonl", r'{"text": "a\ud83d"}')
    assert list(read_documents(path, invalid="replace")) == ["a\ufffd"]


def test_a_json_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 100)
    with pytest.raises(LuthierError, match="line 1: longer than 100 bytes"):
        list(read_documents(write(tmp_path / "bomb.jsonl", '{"text": "' + "a" * 200)))


def test_a_damaged_or_wrong_parquet_file_is_named(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(LuthierError, match=r"no column 'text': there are 'n'"):
        list(read_documents(tmp_path / "numbers.parquet"))
    with pytest.raises(LuthierError, match="holds int64, not text"):
        list(read_documents(tmp_path / "numbers.parquet", field="n"))
    with pytest.raises(LuthierError, match=r"bad\.parquet: not a sound"):
        list(read_documents(write(tmp_path / "bad.parquet", b"PAR1 nonsense PAR1")))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LuthierError, match=r"pip install 'luthier\[hub\]'"):
        list(read_documents(write(tmp_path / "a.parquet", b"x")))


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(b"hello" * 1000)[:-20]], ids=["other", "cut"])
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    with pytest.raises(LuthierError, match=r"bad\.txt\.gz: cannot be read"):
        list(read_documents(write(tmp_path / "bad.txt.gz", content)))


def test_a_path_that_is_not_there_suggests_the_nearest(tmp_path):
    write(tmp_path / "shakespeare.txt", "x")
    with pytest.raises(LuthierError, match=r"no such file.*did you mean '.*shakespeare\.txt'"):
        find_files(tmp_path / "shakespere.txt")
    with pytest.raises(LuthierError, match="no file matches"):
        find_files(str(tmp_path / "*.md"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LuthierError, match="holds no text"):
        find_files(tmp_path / "empty")


def test_empty_documents_are_left_out(tmp_path):
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", "\ufeff\x00")
    write(tmp_path / "c.txt", "text")
    assert list(read_pieces(tmp_path)) == [Piece("text", True)]
