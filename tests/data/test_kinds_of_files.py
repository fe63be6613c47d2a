"""Files of every kind that people have: read, or named as what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from luthier.data import records
from luthier.data.sources import Texts
from luthier.errors import LuthierError

from .reading import read_documents

ROWS = [{"story": "un\r\né", "n": 1}, {"story": None, "n": 2}, {"story": "trois, « vingt »", "n": 3}]
DOCUMENTS = ["un\né", "trois, « vingt »"]

pytestmark = pytest.mark.filterwarnings("ignore::luthier.errors.Remark")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("spacing", [{}, {"indent": 4}, {"separators": (",", ":")}])
def test_a_json_array_of_objects_is_read_by_its_field(tmp_path, spacing):
    path = write(tmp_path / "rows.json", "\ufeff" + json.dumps(ROWS, **spacing))
    texts = Texts((path,), field="story")
    assert list(texts.documents()) == DOCUMENTS
    assert texts.remarks == [f"{path}: left out where 'story' is null: 1"]
    with pytest.raises(LuthierError, match=r"item 1: no field 'text': there are 'story', 'n'; .* \(field\)"):
        list(Texts((path,)))


def test_json_arrays_of_strings_and_values_on_end_are_read(tmp_path):
    assert list(read_documents(write(tmp_path / "a.json", '["a", "b \\u00e9", null]'))) == ["a", "b é"]
    assert list(read_documents(write(tmp_path / "b.json", '{"text": "a"}\n{"text": "b"}\n'))) == ["a", "b"]
    assert list(read_documents(write(tmp_path / "c.json", '{\n"text": "a"\n}'))) == ["a"]


def test_a_json_file_streams_and_its_faults_are_named(tmp_path, monkeypatch):
    stories = [{"text": f"{number} " + "a" * 70_000} for number in range(40)]
    path = write(tmp_path / "long.json", json.dumps(stories))
    assert list(read_documents(path)) == [story["text"] for story in stories]
    for content, fault in (
        ('[{"text": "a"}, {"text": b}]', "item 2: not JSON"),
        ('[{"text": "a"}', "cut short"),
        ('[{"text": "a"', "item 1: not JSON"),
        ("[3]", r"item 1: a number \(3\)"),
        ('[{"text": ["a"]}]', r"the field 'text' holds a list of 1 \(\[\"a\"\]\), not text"),
        ('[{"text": {"a": 1}}]', "holds an object of 1 fields"),
    ):
        with pytest.raises(LuthierError, match=fault):
            list(read_documents(write(tmp_path / "bad.json", content)))
    monkeypatch.setattr(records, "LONGEST", 100_000)
    with pytest.raises(LuthierError, match="item 1: not JSON"):
        list(read_documents(write(tmp_path / "bomb.json", '["' + "a" * 4_000_000)))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_file_is_read_by_its_column(tmp_path, separator):
    rows = [f"n{separator}story", f'1{separator}"un\r\né"', "", f'3{separator}"dit ""{separator}"""']
    path = write(tmp_path / "rows.csv", "\r\n".join(rows) + "\r\n")
    assert list(read_documents(path, field="story")) == ["un\né", f'dit "{separator}"']
    with pytest.raises(LuthierError, match=r"rows.csv: the first row names no column 'text': there are 'n', 'story'"):
        list(read_documents(path))


def test_in_a_tsv_file_quotes_are_text(tmp_path):
    path = write(tmp_path / "sms.tsv", 'label\ttext\nham\t"Go on\nspam\tWin "now"\n')
    assert list(read_documents(path)) == ['"Go on', 'Win "now"']


def test_a_row_with_other_columns_is_named(tmp_path):
    with pytest.raises(LuthierError, match="line 3: 3 columns where the first row names 2"):
        list(read_documents(write(tmp_path / "a.csv", "n,text\n1,a\n2,b,c\n")))
    with pytest.raises(LuthierError, match="not sound CSV"):
        list(read_documents(write(tmp_path / "b.csv", 'n,text\n1,"a\n')))


def test_null_is_treated_alike_in_every_kind_and_said(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    stories = pa.array([row["story"] for row in ROWS])
    pq.write_table(pa.table({"story": stories}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"story": stories.dictionary_encode()}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"story": stories.cast(pa.large_string())}), tmp_path / "d.parquet")
    texts = Texts((tmp_path,), field="story")
    assert list(texts.documents()) == 4 * DOCUMENTS
    assert list(texts.documents()) == 4 * DOCUMENTS
    assert [remark.split(": ", 1)[1] for remark in texts.remarks] == 4 * ["left out where 'story' is null: 1"]


def test_every_compression_is_read_by_its_name_or_its_first_bytes(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    content = ("naïve\n" * 50_000).encode()
    ways = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    for suffix, compress in ways.items():
        data = compress(content[:180_000]) + compress(content[180_000:])  # two parts, as `cat a.gz b.gz` makes
        for name in (f"a.txt{suffix}", f"b{suffix}.txt"):
            [document] = read_documents(write(tmp_path / name, data))
            assert document == content.decode(), name
        assert list(read_documents(write(tmp_path / f"a.jsonl{suffix}", compress(b'{"text": "a"}')))) == ["a"]
        for damaged in (data[:-30], data[:40] + bytes(20) + data[60:]):
            with pytest.raises(LuthierError, match=r"cut\.txt.*cannot be read"):
                list(read_documents(write(tmp_path / f"cut.txt{suffix}", damaged)))


def test_parquet_is_read_out_of_what_cannot_seek(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    zstandard = pytest.importorskip("zstandard")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    packed = zstandard.compress((tmp_path / "a.parquet").read_bytes())
    assert list(read_documents(write(tmp_path / "b.parquet.zst", packed))) == ["a"]


def test_without_zstandard_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("luthier.data.binaries.find_spec", lambda name: None)
    with pytest.raises(LuthierError, match=r"pip install 'luthier\[hub\]'"):
        list(read_documents(write(tmp_path / "a.txt.zst", b"\x28\xb5\x2f\xfd")))


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", r"a PDF document, not text: extract its text first"),
        (zipped("[Content_Types].xml", "word/document.xml"), r"a Word document \(.docx\), not text: save it as plain"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), r"an Excel workbook"),
        (zipped("mimetype", "META-INF/container.xml"), "an EPUB book"),
        (zipped("a.txt"), "a zip archive, not text: name it .zip"),
        (tarred(), "a tar archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document of the old kind"),
        (b"{\\rtf1\\ansi", "a rich text document"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "a PNG image"),
        (b"\x7fELF\x02\x01\x01\0", "a program"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"GGUF\x03\0\0\0", "the weights of a model"),
        (bytes(range(256)) * 20, "not text but binary data"),
        (b"some text" + bytes(500), "are NUL: this is not text"),
    ],
)
@pytest.mark.parametrize("invalid", ["error", "replace"])
def test_what_is_no_text_is_named_and_never_read(tmp_path, content, what, invalid):
    if invalid == "replace" and what == "not text but binary data":
        pytest.skip("to read any bytes is what was asked for")
    with pytest.raises(LuthierError, match=what) as caught:
        list(read_documents(write(tmp_path / "thing.txt", content), invalid=invalid))
    assert "replace" not in str(caught.value)


@pytest.mark.parametrize("beginning", ["RIFF is a riff.", "GGUF and other files", "ID3", "BZhang", "Rar! he said"])
def test_a_text_that_begins_like_another_kind_of_file_is_text(tmp_path, beginning):
    assert list(read_documents(write(tmp_path / "a.txt", beginning))) == [beginning]


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("invalid", ["error", "replace"])
def test_wide_text_is_named_with_or_without_its_mark(tmp_path, code, invalid):
    name = code.upper().replace("-LE", "LE").replace("-BE", "BE")
    said = f"this is {name}" + (" without its byte order mark" if name.endswith("E") else "")
    with pytest.raises(LuthierError, match=rf"{said}: convert it to UTF-8 \(iconv -f {name}"):
        list(read_documents(write(tmp_path / "wide.txt", "Une page de texte.\n".encode(code)), invalid=invalid))


def test_a_nul_here_and_there_is_dropped(tmp_path):
    assert list(read_documents(write(tmp_path / "a.txt", "one\0 two" + 50 * " three"))) == ["one two" + 50 * " three"]


def test_a_pipe_or_a_device_is_no_text_and_skipped_in_a_folder(tmp_path):
    write(tmp_path / "a.txt", "a")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    texts = Texts((tmp_path,))
    assert list(texts.documents()) == ["a"]
    assert sorted(remark.split(": ")[0] for remark in texts.remarks) == [
        str(tmp_path / name) for name in ("broken.txt", "pipe.txt", "zero.txt")
    ]
    for name in ("pipe.txt", "zero.txt"):
        with pytest.raises(LuthierError, match="a pipe or a device"):
            Texts((tmp_path / name,))


def test_in_a_folder_tables_are_left_out_and_said(tmp_path):
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "package.json", "{}")
    write(tmp_path / "b.csv", "n\n1\n")
    texts = Texts((tmp_path,))
    assert list(texts.documents()) == ["a"]
    assert texts.remarks[0].startswith(f"{tmp_path}: 1 .csv, 1 .json left out")
