"""`luthier inspect`: a page that shows what a model does with a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from luthier.cli.opening import Device, NumberType, Quantize, open_model
from luthier.cli.texts import text_or_stdin
from luthier.errors import UsageError
from luthier.terminal.printing import note

ABOUT = """See inside a model as it reads a text: one HTML page that opens from disk, with no network. Surprise and
candidates of each token, attention by layer and head, what each layer would say, norms, experts, parameters and time.

    luthier inspect runs/book "Once upon a time"
    luthier inspect SmolLM2-135M-Instruct.gguf "The capital of France is" --out paris.html
    luthier inspect runs/book - < page.txt
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A training run, a Hugging Face, Meta or OpenAI folder, a .gguf or .pth file, or hf:ORG/NAME."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """What the model reads; - reads it from stdin."""
    out: Path = Path("report.html")
    """The page to write. One that is there is replaced."""
    max_tokens: int = 256
    """The page shows the first tokens only, so many; fewer for a model with many heads."""
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "auto"
    """Number type to compute in; auto takes that of the model's file."""
    quantize: Quantize = "no"
    """Keep the matrices in 8 or 4 bits, to see what that does; on a CPU."""


def main(arguments: list[str]) -> int:
    """Write the page, and say where it is."""
    given = tyro.cli(Arguments, prog="luthier inspect", description=ABOUT, args=arguments)
    if given.max_tokens < 1:
        raise UsageError(f"--max-tokens {given.max_tokens} must be at least 1")
    text = text_or_stdin(given.text, "the text")
    lm = open_model(given.model, given.device, given.dtype, given.quantize)

    from luthier.files.atomic_file import PAGE, write_file
    from luthier.generation.generate import encode_prompts
    from luthier.inspect.page import make_page, max_tokens

    [tokens] = encode_prompts(lm.tokenizer, [text])
    fitting = max_tokens(lm.model, min(given.max_tokens, lm.config.context_length))
    n_truncated = ""
    if len(tokens) > fitting:
        n_truncated = f"The text has {len(tokens):,} tokens; the first {fitting} are shown."
    page = make_page(
        lm.model, lm.tokenizer, tokens[:fitting], name=Path(given.model).name or given.model, note=n_truncated
    )
    write_file(given.out, page, begins=PAGE)
    size = len(page.encode()) / 1e6
    note(f"{given.out}: {min(len(tokens), fitting)} tokens, {size:.1f} MB")
    if n_truncated:
        note(n_truncated)
    return 0
