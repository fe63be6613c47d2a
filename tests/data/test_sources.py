from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.data import sources
from luthier.data.sources import CORPORA, Corpus, File, Texts, split_documents
from luthier.data.text import Piece, join
from luthier.errors import LuthierError, UsageError

CONTENT = b"Story one.\n<|endoftext|>\n\nStory two.\n<|endoftext|>\n"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked for; each answers with the two stories."""
    asked: list[str] = []

    def answer(url: str, path: Path, **_: object) -> None:
        asked.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)

    monkeypatch.setattr(sources, "download", answer)
    return asked


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus of two stories in one file."""
    file = File("https://example.com/stories.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    boundary = re.compile(r"<\|endoftext\|>")
    corpus = Corpus("stories", "two stories", "English", "MIT", "https://example.com", (file,), boundary)
    monkeypatch.setitem(CORPORA, "stories", corpus)
    return corpus


def test_every_corpus_says_its_license_source_and_sha256():
    assert list(CORPORA) == [
        "python-docs",
        "the-verdict",
        "tiny-shakespeare",
        "wikitext-fr",
        "tinystories",
        "fineweb-edu",
    ]
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert corpus.license
        assert corpus.language
        assert corpus.source.startswith("https://")
        assert corpus.files or name == "python-docs"
        for file in corpus.files:
            assert file.url.startswith("https://")
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.size > 0


def test_a_corpus_is_downloaded_once_and_cut_into_documents(corpus, downloads):
    assert not corpus.is_here
    texts = Texts(("stories",))
    assert list(texts.documents()) == ["Story one.\n", "Story two.\n"]
    assert corpus.is_here
    assert list(texts) == list(Texts(("stories",))) == [Piece("Story one.\n", True), Piece("Story two.\n", True)]
    assert downloads == ["https://example.com/stories.txt"]


def test_a_damaged_corpus_is_downloaded_again(corpus, downloads):
    path = corpus.fetch()[0]
    path.write_bytes(CONTENT.replace(b"two", b"2nd"))
    assert corpus.fetch() == [path]
    assert path.read_bytes() == CONTENT
    assert len(downloads) == 2


def test_without_a_network_the_way_out_is_a_file_of_your_own(monkeypatch):
    nowhere = replace(CORPORA["the-verdict"], files=(File("http://127.0.0.1:9/v.txt", 3, "0" * 64),))
    monkeypatch.setitem(CORPORA, "the-verdict", nowhere)
    texts = Texts(("the-verdict",))
    with pytest.raises(
        LuthierError, match=r"corpus 'the-verdict': cannot download.*name a text file of your own.*put v\.txt at"
    ):
        list(texts)


def test_a_corpus_that_could_not_be_read_is_not_downloaded(downloads, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LuthierError, match=r"corpus 'fineweb-edu': reading \.parquet needs pyarrow"):
        list(Texts(("fineweb-edu",)))
    assert downloads == []


def test_a_file_put_by_hand_needs_no_network(corpus, downloads):
    corpus.folder.mkdir(parents=True)
    (corpus.folder / "stories.txt").write_bytes(CONTENT)
    assert len(list(Texts(("stories",)))) == 2
    assert downloads == []


def test_names_and_paths_mix_in_the_order_given(corpus, downloads, tmp_path):
    (tmp_path / "own.txt").write_text("My own.")
    assert list(Texts((tmp_path / "own.txt", "stories")).documents()) == ["My own.", "Story one.\n", "Story two.\n"]


def test_what_is_neither_a_corpus_nor_a_file_is_an_error_at_once():
    with pytest.raises(LuthierError, match=r"tinystory: no such file or folder; there is a corpus tinystories"):
        Texts(("tinystory",))
    with pytest.raises(LuthierError, match=r"no/such\.txt: no such file or folder$"):
        Texts(("no/such.txt",))
    with pytest.raises(UsageError, match="no text is named"):
        Texts(())


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/", 1).replace("_dot_", "."), content)
    return path


def test_wikitext_is_read_from_its_zip_article_by_article(tmp_path, monkeypatch):
    article = " = Rennes = \n\n Rennes est une ville. \n = = Histoire = = \n Ancienne. \n = Brest = \n\n Une autre. \n"
    path = zipped(tmp_path / "wiki.zip", wiki__wiki_dot_train_dot_tokens=article, other__picture_dot_png="x")
    monkeypatch.setattr(Corpus, "fetch", lambda self: [path])
    assert list(Texts(("wikitext-fr",)).documents()) == [
        "= Rennes = \n\n Rennes est une ville. \n = = Histoire = = \n Ancienne.\n",
        "= Brest = \n\n Une autre.\n",
    ]


def test_a_zip_without_text_or_damaged_is_named(tmp_path):
    with pytest.raises(LuthierError, match=r"no text inside, only a/b\.pkl"):
        list(Texts((zipped(tmp_path / "a.zip", a__b_dot_pkl="x"),)))
    (tmp_path / "b.zip").write_bytes(b"PK nonsense")
    with pytest.raises(LuthierError, match=r"b\.zip: not a sound zip"):
        list(Texts((tmp_path / "b.zip",)))


def test_documents_are_found_whatever_pieces_they_come_in():
    boundary = re.compile("<end>")
    for pieces in (
        ["a\n<end>\nb\nc\n<end>\n"],
        ["a\n", "<end>\n", "b\n", "c\n<end>\n"],
        ["a\n<end>\nb\n", "c\n", "<end>\n"],
    ):
        marked = [Piece(text, i == len(pieces) - 1) for i, text in enumerate(pieces)]
        assert list(join(split_documents([*marked, Piece("d", True)], boundary))) == ["a\n", "b\nc\n", "d\n"]
