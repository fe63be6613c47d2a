"""The page of a run, and the one that compares runs: numbers as measured, texts as text, nothing from a network."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_runs import plan

from luthier.cli import report as command
from luthier.errors import LuthierError, Remark, UsageError
from luthier.pages.charts import Chart, dots, line
from luthier.pages.numbers import cell
from luthier.pages.sections import Section, Table, write_page
from luthier.run import train
from luthier.run.json_lines import append, forget_after, read_lines
from luthier.run.report import write_comparison, write_report


class Page(HTMLParser):
    """What a browser would see: the tables' cells, all text that is no script, and the elements by name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables: list[list[list[str]]] = []
        self.text, self.inside, self.elements = "", "", dict[str, int]()
        self.feed(self.source)
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        self.charts = json.loads(data.group(1)) if data else []

    def handle_starttag(self, tag, attrs):
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.inside = tag
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.inside not in ("script", "style"):
            self.text += data

    def chart(self, title):
        return next(chart for chart in self.charts if chart["title"] == title)


@pytest.fixture(scope="module")
def run(book, tmp_path_factory):
    return train.start(plan(book, "llama4-nano"), tmp_path_factory.mktemp("runs") / "mixture")


@pytest.fixture(scope="module")
def other(book, tmp_path_factory):
    return train.start(plan(book, "gpt2-nano", steps=4), tmp_path_factory.mktemp("runs") / "gpt")


def test_the_page_shows_the_numbers_of_the_log(run):
    page, looks = Page(write_report(run)), read_lines(run / "metrics.jsonl")
    every_look = next(table for table in page.tables if "train loss" in table[0] and "bits per byte" in table[0])
    for shown, look in zip(every_look[1:], looks, strict=True):
        row = dict(zip(every_look[0], shown, strict=True))
        for key in ("step", "tokens", "train_loss", "validation_loss", "perplexity", "gradient_norm", "learning_rate"):
            assert row[key.replace("_", " ")] == cell(look.get(key))
    loss = {trace["name"]: trace["y"] for trace in page.chart("Loss")["traces"]}
    assert loss == {
        "training": [look["train_loss"] for look in looks],
        "validation": [look["validation_loss"] for look in looks],
    }
    perplexities = page.chart("Perplexity")["traces"][1]["y"]
    assert perplexities == pytest.approx([math.exp(look["validation_loss"]) for look in looks])
    for name, key in (("Learning rate", "learning_rate"), ("Speed", "tokens_per_second")):
        assert page.chart(name)["traces"][0]["y"] == [look.get(key) for look in looks]
    best = min(looks, key=lambda look: look["validation_loss"])
    assert f"{best['validation_loss']:.4f} nats per token at step {best['step']}" in page.text


def test_the_load_of_each_expert_is_shown(run):
    page, last = Page(write_report(run)), read_lines(run / "metrics.jsonl")[-1]
    shown = page.chart("Expert load at the last evaluation")["traces"][0]["z"]
    assert shown == [pytest.approx([share * len(layer) for share in layer]) for layer in last["expert_loads"]]
    busiest = [trace["y"][-1] for trace in page.chart("Busiest expert")["traces"]]
    assert max(busiest) == pytest.approx(last["imbalance"])


def test_samples_settings_and_commands_are_there(run):
    page = Page(write_report(run))
    for sample in read_lines(run / "samples.jsonl"):
        assert sample["text"].removeprefix(sample["prompt"]) in page.text
    assert (run / "run.toml").read_text(encoding="utf-8").strip() in page.text
    assert "luthier generate" in page.text
    assert "--resume --steps 16" in page.text
    assert "finished: step 8 of 8" in page.text


def test_texts_of_a_model_are_text(run, tmp_path):
    hostile = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }} & \ud800 \u2028 end'
    for name in ("run.toml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    sample = {"step": 1, "epoch": 0.5, "prompt": "<b>", "text": f"<b>{hostile}"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n[1]\n7\n", encoding="utf-8")
    usual, page = Page(write_report(run)), Page(write_report(tmp_path))
    assert hostile.replace("\ud800", "?") in page.text
    assert "img" not in page.elements
    assert page.elements["script"] == usual.elements["script"]


def test_charts_take_names_as_text(tmp_path):
    name = '<a href="http://example.com">x</a></script>'
    section = Section(
        "s", charts=[Chart(name, "x", "y", [line(name, [1], [2.0], 0, [name]), dots(name, [name], [1.0], 1)])]
    )
    page = Page(write_page(tmp_path / "page.html", name, name, [section]))
    assert page.elements["script"] == 3
    assert "a" not in page.elements
    trace = page.charts[0]["traces"][0]  # Plotly reads some HTML in its labels: names come to it escaped
    assert "<" not in trace["name"] + trace["text"][0] + page.charts[0]["traces"][1]["x"][0]


def test_the_page_asks_no_network(run):
    page = Page(write_report(run))
    assert "default-src 'none'" in page.source
    assert not {"link", "iframe", "img", "object"} & page.elements.keys()
    own = page.source.replace(re.search(r"<script>(.*?)</script>", page.source, re.DOTALL).group(1), "")
    assert "http://" not in own
    assert "https://" not in own


def test_a_run_that_goes_on_can_be_looked_at(run, tmp_path):
    (tmp_path / "run.toml").write_bytes((run / "run.toml").read_bytes())
    assert "Nothing has been measured yet" in Page(write_report(tmp_path)).text
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:40], encoding="utf-8")
    page = Page(write_report(tmp_path))
    assert len(page.chart("Loss")["traces"][0]["y"]) == 2
    assert "--resume" in page.text
    assert "finished" not in page.text


def test_numbers_that_are_none_leave_a_gap(run, tmp_path):
    (tmp_path / "run.toml").write_bytes((run / "run.toml").read_bytes())
    good = {"step": 1, "epoch": 0.5, "tokens": 32, "train_loss": 2.0, "validation_loss": 2.5}
    for look in (good, {**good, "step": 2, "train_loss": math.nan, "expert_loads": "x"}, {"step": "<b>"}):
        append(tmp_path / "metrics.jsonl", look)
    assert Page(write_report(tmp_path)).chart("Loss")["traces"][0]["y"] == [2.0, None]


def test_a_log_may_hold_anything(run, tmp_path):
    (tmp_path / "run.toml").write_bytes((run / "run.toml").read_bytes())
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "index.json").write_text('{"splits": {"train": 3}}', encoding="utf-8")
    good = (
        '{"step": 1, "epoch": 1e-320, "tokens": 32, "train_loss": 2.0, "seconds": true, "expert_loads": [[1, 0], [2]]'
    )
    lines = [
        good + "}",
        "[]",
        "null",
        '{"step": 1' + "0" * 400 + ', "epoch": 1, "tokens": 1}',
        good + ', "perplexity": NaN}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    page = Page(write_report(tmp_path))
    assert page.chart("Loss")["traces"][0]["y"] == [2.0, 2.0]
    assert "Busiest expert" not in page.source


def test_the_comparison_shows_each_run_and_what_differs(run, other, tmp_path):
    page = Page(write_comparison([run, other], tmp_path / "both.html"))
    table = page.tables[0]
    for row, folder in zip(table[1:], (run, other), strict=True):
        looks = read_lines(folder / "metrics.jsonl")
        shown = dict(zip(table[0], row, strict=True))
        assert shown["run"] == folder.name
        assert shown["best loss"] == cell(min(look["validation_loss"] for look in looks))
        assert shown["tokens"] == cell(looks[-1]["tokens"])
    differing = {row[0]: row[1:] for row in page.tables[1][1:]}
    assert differing["steps"] == ["8", "4"]
    assert differing["preset"] == ["llama4-nano", "gpt2-nano"]
    assert "learning_rate" not in differing
    assert [trace["name"] for trace in page.chart("Loss over tokens")["traces"]] == ["mixture", "gpt"]


def test_the_command(run, other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([str(run)]) == 0
    assert command.main([str(run), str(other)]) == 0
    assert command.main([str(run), "--out", "mine.html"]) == 0
    said = capsys.readouterr().out.split()
    assert said == [str(run / "report.html"), "report.html", "mine.html"]
    assert all(Path(name).stat().st_size > 1_000_000 for name in said)
    with pytest.warns(Remark, match=r"\.\./.* has no effect: the run is on the page already, as "):
        assert command.main([str(run), str(other), f"{run}/../{run.name}"]) == 0
    with pytest.raises(UsageError, match="no run is named"):
        command.main([])
    with pytest.raises(LuthierError, match=r"has no run\.toml"):
        command.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (12345, "12,345"),
        (3.0, "3"),
        (0.123456789, "0.12346"),
        (1e-7, "1.000e-07"),
        (123456.7, "123,457"),
        (3.7e303, "3.700e+303"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_as_people_read_them(value, text):
    assert cell(value) == text


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LuthierError, match="cannot write"):
        write_page(tmp_path / "file" / "page.html", "t", "l", [Section("s", tables=[Table(["a"], [[1]])])])


def test_records_may_hold_any_line_break_and_end_in_half_a_character(tmp_path):
    path = tmp_path / "samples.jsonl"
    for step, text in enumerate(("a\u2028b", "c\x85d", "e\nf")):
        append(path, {"step": step, "text": text})
    whole = path.read_bytes()
    path.write_bytes(whole + '{"step": 3, "text": "é'.encode()[:-1])
    assert [record["text"] for record in read_lines(path)] == ["a\u2028b", "c\x85d", "e\nf"]
    forget_after(path, 2)
    assert path.read_bytes() == whole
