"""Rendering of a page: a template over the skeleton, with styles, scripts, data and Plotly inside the file.

What a run or a model wrote is data here, never HTML: jinja2 escapes it, scripts get it as JSON and insert it as text,
and the skeleton's content security policy forbids the browser any request.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from luthier.errors import LuthierError


def render(package: str, template: str, *, title: str, data: Any, scripted: bool = True, **values: Any) -> str:
    """Render TEMPLATE.html of a package, which extends skeleton.html, with TEMPLATE.css and TEMPLATE.js.

    data: for the scripts, without NaN or infinity. scripted: whether the page has charts. values: for the template.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # late: only pages need it

    loaders = [PackageLoader(*package.rsplit(".", 1)), PackageLoader("luthier", "pages")]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    files = [(__package__, "base"), (package, template)]
    return environment.get_template(f"{template}.html").render(
        title=title,
        data=data,
        style="".join(read(where, f"{stem}.css") for where, stem in files),
        script="".join(read(where, f"{stem}.js") for where, stem in files) if scripted else "",
        plotly=plotly_js() if scripted else "",
        **values,
    )


def read(package: str, name: str) -> str:
    """Read a file of a package."""
    return (resources.files(package) / name).read_text("utf-8")


def plotly_js() -> str:
    """The JavaScript of Plotly's wheel, without importing its Python."""
    try:
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ImportError, OSError):
        raise LuthierError("Plotly, which draws the charts of pages, is not installed: pip install plotly") from None
