"""`luthier inspect`: the page it writes, what it says, and what it refuses."""

from __future__ import annotations

import io
import sys

import pytest
from talking_models import byte_tokenizer, save_tiny

from luthier.cli.inspect import main
from luthier.errors import LuthierError, Remark, UsageError

OPENING = '<script type="application/json" id="data">'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", byte_tokenizer())


def test_it_writes_one_page_that_takes_the_place_of_another(model, tmp_path, capsys):
    out = tmp_path / "new" / "look.html"
    for text in ("Hello", "Goodbye"):
        assert main([model, text, "--out", str(out)]) == 0
        assert capsys.readouterr().err.startswith(f"{out}: {len(text)} tokens, ")
    assert [file.name for file in out.parent.iterdir()] == ["look.html"]
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "Inside <bdi>tiny</bdi>" in page
    assert page.count(OPENING) == 1


def test_a_model_in_few_bits_is_looked_into_as_any_other(model, tmp_path):
    whole, packed = tmp_path / "whole.html", tmp_path / "packed.html"
    assert main([model, "Hello", "--out", str(whole)]) == 0
    assert main([model, "Hello", "--out", str(packed), "--quantize", "int8"]) == 0
    pages = [page.read_text(encoding="utf-8") for page in (whole, packed)]
    assert pages[0] != pages[1]
    assert pages[1].count(OPENING) == 1


def test_report_html_is_its_name_and_stdin_can_be_the_text(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode())))
    assert main([model, "-"]) == 0
    assert '"tokens": [' in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("options", "shown"), [(["--max-tokens", "10"], 10), ([], 128)])
def test_a_long_text_is_cut_with_a_word_about_it(model, tmp_path, capsys, options, shown):
    assert main([model, "x" * 300, "--out", str(tmp_path / "a.html"), *options]) == 0
    word = f"The text has 300 tokens; the first {shown} are shown."
    assert word in capsys.readouterr().err
    assert word in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_what_cannot_be_done_is_one_line_and_leaves_no_file(model, tmp_path):
    with pytest.raises(UsageError, match="max_tokens 0 must be at least 1"):
        main([model, "a", "--max-tokens", "0"])
    with pytest.raises(LuthierError, match="there is no"):
        main([str(tmp_path / "none"), "a", "--out", str(tmp_path / "a.html")])
    with pytest.raises(LuthierError, match="no token that begins a text"):
        main([model, "", "--out", str(tmp_path / "a.html")])
    with pytest.raises(LuthierError, match="is a folder"):
        main([model, "a", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_more_tokens_than_a_page_can_show_are_a_remark(model, tmp_path):
    out = str(tmp_path / "a.html")
    with pytest.warns(Remark, match=r"max_tokens=5000 has no effect beyond 128: the model's context is no longer"):
        assert main([model, "x" * 300, "--out", out, "--max-tokens", "5000"]) == 0
    assert main([model, "x" * 30, "--out", out, "--max-tokens", "5000"]) == 0  # a bound, and not an order


def test_a_page_of_many_heads_says_so(tmp_path, monkeypatch):
    from luthier.inspect import page

    monkeypatch.setattr(page, "ATTENTION_BYTES", 400)
    many = save_tiny(tmp_path / "many", byte_tokenizer())
    with pytest.warns(Remark, match=r"has no effect beyond \d+: a page holds no more of so many heads"):
        assert main([many, "x" * 300, "--out", str(tmp_path / "a.html"), "--max-tokens", "100"]) == 0
