"""Pages of runs and of ablation studies as a person meets them, in headless Chromium: both widths and color schemes.

Each test fails on anything that the console says, on any request beyond the page itself, and on a page that is wider
than the window.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luthier.architectures.registry import preset
from luthier.run.json_lines import append
from luthier.run.plan import resolve
from luthier.run.report import write_comparison, write_report
from luthier.study.ablation import Study
from luthier.study.ablation_page import write
from luthier.study.results import Evaluation, Training
from luthier.study.variants import Variant

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytest.importorskip("selenium", reason="needs selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]
NAME = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run with experts whose name and samples are hostile, a comparison, and an ablation study."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [folder / "a run", folder / NAME.replace("/", "")]
    for number, run in enumerate(runs):
        run.mkdir()
        (run / "run.toml").write_text(resolve((NAME,), options={"steps": 40, "preset": "llama4-nano"}).toml(), "utf-8")
        for step in range(0, 41, 10):
            losses = {"train_loss": 4 - step / 20 - number, "validation_loss": 4.1 - step / 21 - number}
            rates = {"learning_rate": 1e-3 * (41 - step), "gradient_norm": 1.5, "tokens_per_second": 900.0 + step}
            look = {"step": step, "epoch": step / 20, "tokens": 64 * step, "bits_per_byte": 2.0, "seconds": float(step)}
            look |= {**losses, **rates, "perplexity": 30.0, "expert_loads": [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]}
            append(run / "metrics.jsonl", look)
            append(
                run / "samples.jsonl",
                {"step": step, "epoch": 0.0, "prompt": "Once", "text": f"Once <b>{NAME}</b>\n" * 3},
            )
    names = ["gpt2", "+ norm", NAME]
    trainings = [
        Training(
            variant,
            seed,
            2e-3,
            10_000,
            9_000,
            1e9,
            512,
            1e4,
            [Evaluation(step, 64 * step, 4 - step / 30 + seed / 50) for step in (0, 10, 20)],
        )
        for seed in (1, 2)
        for variant in names
    ]
    study = folder / "study.html"
    kinds = tuple(Variant(name, "composed-nano", preset("composed-nano")) for name in names)
    asked = Study((NAME,), f"From {NAME}", "nano", "parameters", 2, 20, 4, (2e-3,), "cpu", 1, 4, kinds)
    write(trainings, asked, study)
    return {
        "report": write_report(runs[1]),
        "comparison": write_comparison(runs, folder / "both.html"),
        "study": study,
    }


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def show(browser, page: Path, width: int, scheme: str) -> None:
    """Open the page in a window of this width, and see that it is quiet."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
@pytest.mark.parametrize("name", ["report", "comparison", "study"])
def test_a_page_fits_its_window_and_asks_nobody(name, width, scheme, pages, browser):
    show(browser, pages[name], width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(chart => {"
        " const drawn = chart.querySelector('.main-svg').getBoundingClientRect();"
        " return [drawn.width > 250 && drawn.right <= innerWidth, chart.querySelectorAll('.trace, .hm').length > 0] })"
    )
    assert len(charts) == {"report": 8, "comparison": 6, "study": 3}[name]
    assert charts == [[True, True]] * len(charts)
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    background = browser.execute_script("return document.querySelector('.main-svg').style.background")
    assert background == paper
    assert browser.execute_script("return document.images.length") == 0


def test_pointing_at_a_curve_shows_its_number(pages, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, pages["report"], 1280, "light")
    point = browser.find_elements(By.CSS_SELECTOR, "#chart-0 .scatterlayer .points path")[2]
    browser.execute_script("document.getElementById('chart-0').scrollIntoView({block: 'center'})")
    ActionChains(browser).move_to_element(point).perform()
    shown = WebDriverWait(browser, 10).until(
        lambda page: "".join(found.text for found in page.find_elements(By.CSS_SELECTOR, "#chart-0 .hovertext"))
    )
    assert "step 20" in shown
    assert "2" in shown


def test_colors_follow_the_window(pages, browser):
    show(browser, pages["comparison"], 1280, "light")
    drawn = "return document.querySelector('#chart-0 .main-svg').style.background"
    assert browser.execute_script(drawn) == "rgb(255, 255, 255)"
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda page: page.execute_script(drawn) == "rgb(20, 23, 27)")


def test_a_hostile_name_is_read_as_text(pages, browser):
    from selenium.webdriver.common.by import By

    show(browser, pages["comparison"], 1280, "light")
    assert NAME in browser.find_element(By.CSS_SELECTOR, "table").text
    legend = browser.execute_script("return document.querySelector('#chart-0 .legend').textContent")
    assert NAME in legend
