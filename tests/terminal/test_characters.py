"""What people see of names and texts that are not theirs."""

from __future__ import annotations

import io

import pytest

from luthier.terminal.characters import encodable, message, one_line, printable


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain text, äöü, 日本語, 🦜\n\tline two", "plain text, äöü, 日本語, 🦜\n\tline two"),
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("a\rb\x00\x7f\x08", "a␍b␀␡␈"),
        ("\x9b31m\x85", "<U+009B>31m<U+0085>"),
        ("pass\u202egnp.exe\u2066\u2069", "pass<U+202E>gnp.exe<U+2066><U+2069>"),
        ("a\u2028b", "a<U+2028>b"),
        ("caf\udce9", "caf\\xe9"),  # a file name in latin-1, as os.listdir gives it
        ("\ud83d", "<U+D83D>"),  # half of a pair, as JSON may hold it
        ("\u200e\u200f \u0301 \u200d", "\u200e\u200f \u0301 \u200d"),  # marks that Arabic, Hindi and emoji need
    ],
)
def test_what_steers_or_deceives_is_shown_as_a_sign(text, seen):
    assert printable(text) == seen


def test_a_name_with_a_line_end_stays_on_its_line():
    assert one_line("book\nluthier: all is well") == "book␊luthier: all is well"


def test_long_names_are_shortened_and_short_ones_are_not():
    path = "/".join(["runs", *["folder"] * 30, "x.txt"])
    assert message(f"{path}: missing") == f"{path}: missing"
    shown = message(f"tensor {'a' * 5000}.weight is unknown")
    assert shown.startswith("tensor aaa")
    assert shown.endswith("aaa.weight is unknown")
    assert "[... 4,747 characters ...]" in shown
    assert len(message("many words " * 10_000)) < 4100


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_text_fits_any_encoding(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    stream.write(encodable("é \ufffd 🦜", stream))
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding)[-4:] in (" ? ?", "\ufffd 🦜"[-4:], " \ufffd 🦜")


def test_the_way_to_replace_that_a_person_chose_is_kept():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="xmlcharrefreplace")
    assert encodable("é", stream) == "&#233;"
