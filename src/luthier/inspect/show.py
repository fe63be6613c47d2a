"""`luthier.inspect.show`: the page about a model on a text, written as a file and shown in a notebook."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

from luthier.errors import UsageError, remark, setting
from luthier.files.atomic_file import PAGE, write_file
from luthier.generation.generate import encode_prompts
from luthier.inspect.page import make_page
from luthier.inspect.page import max_tokens as most_tokens
from luthier.language_model import LanguageModel
from luthier.opening import Device, NumberType, Quantize, opened, short_name

MAX_TOKENS = 256  # where none are given
HEIGHT = 800  # pixels, in a notebook


@dataclass(frozen=True, repr=False)
class Page:
    """A page that was written. path: its file. tokens: how many it shows; of: how many the text has."""

    path: Path
    html: str
    tokens: int
    of: int

    @property
    def truncated(self) -> str:
        """A sentence that says what was left out; empty if nothing was."""
        if self.tokens == self.of:
            return ""
        return f"The text has {self.of:,} tokens; the first {self.tokens} are shown."

    def __repr__(self) -> str:
        return f"{self.path}: {self.tokens} tokens, {len(self.html.encode()) / 1e6:.1f} MB"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="{HEIGHT}" frameborder="0"></iframe>'


def show(
    model: str | os.PathLike[str] | LanguageModel,
    text: str,
    *,
    out: str | os.PathLike[str] = "report.html",
    max_tokens: int = MAX_TOKENS,
    device: Device = "auto",
    dtype: NumberType = "auto",
    quantize: Quantize = "no",
) -> Page:
    """Write a page that shows what a model does with a text; a notebook displays it.

        >>> luthier.inspect.show("runs/book", "ka lo mi", out="inside.html")
        inside.html: 8 tokens, ... MB

    Surprise and candidates of each token, attention by layer and head, the logit lens, norms, experts, parameters and
    time. max_tokens: the page shows the first tokens only, so many; fewer for a model with many heads. Raises a
    LuthierError where `out` is a file that is no page.
    """
    if max_tokens < 1:
        raise UsageError(f"{setting('max_tokens')} {max_tokens} must be at least 1")
    lm = opened(model, device, dtype, quantize)
    [tokens] = encode_prompts(lm.tokenizer, [text])
    context = lm.config.context_length
    most = most_tokens(lm.model, min(max_tokens, context))
    if len(tokens) > most and most < max_tokens != MAX_TOKENS:
        reason = "the model's context is no longer" if most == context else "a page holds no more of so many heads"
        remark(f"{setting('max_tokens', max_tokens)} has no effect beyond {most}: {reason}")
    fitting = min(len(tokens), most)
    page = Page(Path(out), "", fitting, len(tokens))
    html = make_page(lm.model, lm.tokenizer, tokens[:fitting], name=short_name(model), note=page.truncated)
    write_file(page.path, html, begins=PAGE)
    return Page(page.path, html, fitting, len(tokens))
