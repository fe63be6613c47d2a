"""The page as a person meets it, in headless Chromium: pointing, choosing, both widths, both color schemes.

Each test fails on anything that the console says, and on any request beyond the page itself.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from inspect_pages import attention_of, data_of

from luthier.architectures import llama4
from luthier.architectures.registry import build
from luthier.inspect.page import make_page
from luthier.tokenizers.core.train import train_bpe

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
selenium = pytest.importorskip("selenium", reason="needs selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]
TEXT = '<b onmouseover="alert(1)">the cat</b>\n<a href="http://example.org">sat</a> on & the mat\x1b[31m'
LAYER, HEAD = 2, 3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of a model with experts, and its numbers."""
    tokenizer = train_bpe([TEXT * 3 + " the cat sat on the mat " * 20], 290)
    config = llama4.Config(
        tokenizer.vocab_size, 128, 16, 16, 24, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=4, n_experts=4,
        experts_per_token=2, moe_every=2, attention_chunk=64,
    )  # fmt: skip
    model = build(config, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    path = tmp_path_factory.mktemp("page") / "report.html"
    html = make_page(model, tokenizer, tokenizer.encode(TEXT), name="<i>tiny</i>", note="cut & said")
    path.write_text(html, encoding="utf-8")
    return path, data_of(html)


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=[(1280, "light"), (400, "dark")], ids=["1280 light", "400 dark"])
def opened(request, browser, page):
    """The page in the browser; at the end it has been silent and has asked for nothing."""
    path, data = page
    width, scheme = request.param
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("performance")
    browser.get(path.as_uri())
    assert browser.find_element("tag name", "body").get_attribute("data-ready") == "yes"
    yield browser, data
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [sent["params"]["request"]["url"] for sent in messages if sent["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in asked
    assert [url for url in asked if url != path.as_uri() and not url.startswith("data:")] == []


def point(browser, element):
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


def text(browser, place):
    return browser.find_element("css selector", place).text


def choose(browser, box, value):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", box)).select_by_value(str(value))


def percents(rows):
    return [float(cell.removesuffix("%")) / 100 for row in rows for cell in row.split() if cell.endswith("%")]


def test_it_shows_the_text_as_text_and_nothing_is_wider_than_the_window(opened):
    browser, data = opened
    tokens = browser.find_elements("css selector", "#surprise-strip .token")
    assert [token.get_property("textContent") for token in tokens[:-1]] == [
        data["pieces"][str(number)] for number in data["tokens"]
    ]
    assert browser.find_elements("css selector", "main b, main a, main i:not(.scale i), h1 i") == []
    assert "<i>tiny</i>" in text(browser, "h1")
    assert text(browser, ".note") == "cut & said"
    assert r"\x1b" in text(browser, "#surprise-strip")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert len(browser.find_elements("css selector", ".chart .main-svg")) >= 8
    assert browser.find_elements("css selector", ".chart a[*|href]") == []


def test_pointing_at_a_token_shows_its_numbers_and_clicking_keeps_them(opened):
    browser, data = opened
    tokens = browser.find_elements("css selector", "#surprise-strip .token")
    assert "What comes next" in text(browser, "#token-panel")
    point(browser, tokens[5])
    panel = text(browser, "#token-panel")
    assert "at place 5" in panel
    assert f"rank {data['rank'][4]} " in panel
    assert f"surprise {data['surprise'][4]:.4g} bits" in panel
    shares = percents([row.text for row in browser.find_elements("css selector", "#token-panel tbody tr")])
    assert shares == pytest.approx(data["candidates"]["probabilities"][4], rel=6e-3)
    point(browser, browser.find_element("tag name", "h1"))
    assert "What comes next" in text(browser, "#token-panel")
    tokens[5].click()
    point(browser, browser.find_element("tag name", "h1"))
    assert "at place 5" in text(browser, "#token-panel")
    assert "at place 5" in text(browser, "#lens-title")
    tokens[5].send_keys("\ue014")  # the right arrow
    assert "at place 6" in text(browser, "#token-panel")
    rows = browser.find_elements("css selector", "#lens-table tbody tr")
    assert len(rows) == 5
    ranks = [int(row.text.split()[-1].replace(",", "")) for row in rows]
    assert ranks == [layer[5] for layer in data["lens"]["rank"]]


def test_choosing_a_layer_and_a_head_shows_where_a_token_looks(opened):
    browser, data = opened
    weights = attention_of(data)
    choose(browser, "layer", LAYER)
    place = len(data["tokens"]) - 4
    for head in ("-1", str(HEAD)):
        choose(browser, "head", head)
        row = (weights[LAYER].mean(0) if head == "-1" else weights[LAYER][HEAD])[place]
        token = browser.find_elements("css selector", "#attention-strip .token")[place]
        point(browser, token)
        panel = text(browser, "#looks-panel")
        assert f"layer {LAYER}, {'mean of its heads' if head == '-1' else f'head {HEAD}'}" in panel
        rows = [row.text for row in browser.find_elements("css selector", "#looks-panel tbody tr")]
        assert percents(rows) == pytest.approx(sorted(row, reverse=True)[: len(rows)], rel=6e-3, abs=2e-5)
        heats = browser.execute_script(
            "return [...document.querySelectorAll('#attention-strip .token')]"
            ".map((token) => Number(token.style.getPropertyValue('--heat')))"
        )
        assert heats == pytest.approx([float(weight) ** 0.5 for weight in row], abs=1e-4)
    assert "of its attention goes to the first token" in text(browser, "#head-says")
    shown = browser.execute_script("return document.getElementById('attention-map').data[0].z")
    assert [z**2 for z in shown[place][: place + 1]] == pytest.approx(
        weights[LAYER][HEAD][place, : place + 1], abs=1e-6
    )


def test_pointing_at_a_map_names_the_tokens_and_clicking_one_chooses_the_head(opened):
    from selenium.webdriver import ActionChains

    browser, data = opened
    plot = browser.find_element("css selector", "#sink-map .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    size = plot.size  # 4 heads to the right, 4 layers up; the middle is the origin
    across, up = (HEAD + 0.5) / 4 - 0.5, (LAYER + 0.5) / 4 - 0.5
    there = ActionChains(browser).move_to_element_with_offset(plot, across * size["width"], -up * size["height"])
    there.perform()
    share = data["sinks"]["share"][LAYER][HEAD]
    said = [label.text for label in browser.find_elements("css selector", "#sink-map .hovertext")]
    assert any(f"layer {LAYER}, head {HEAD}: {100 * share:.3g}" in label for label in said), said
    there.click().perform()
    assert browser.find_element("id", "layer").get_property("value") == str(LAYER)
    assert browser.find_element("id", "head").get_property("value") == str(HEAD)
    assert f"layer {LAYER}, head {HEAD}" in text(browser, "#looks-panel")


def test_the_data_is_under_each_chart(opened):
    browser, data = opened
    T = len(data["tokens"])
    expected = {
        "tokens": T, "attention": T, "sinks": 4, "lens": 5 * T, "norms": 5, "experts": T, "loads": 2,
        "parts": len(data["parts"]),
    }  # fmt: skip
    for name, rows in expected.items():
        details = browser.find_element("css selector", f"details[data-table={name}]")
        summary = details.find_element("tag name", "summary")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
        summary.click()
        browser.execute_async_script("setTimeout(arguments[0], 30)")  # the table is made when the event comes
        assert len(details.find_elements("css selector", "tbody tr")) == rows, name
    loads = [row.text.split() for row in browser.find_elements("css selector", "details[data-table=loads] tbody tr")]
    assert [list(map(int, row)) for row in loads] == [[each["layer"], *each["load"]] for each in data["routing"]]
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
