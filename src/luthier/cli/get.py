"""`luthier get`: OpenAI's GPT-2, downloaded from where OpenAI published it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from luthier.errors import LuthierError, UsageError
from luthier.files.atomic_folder import is_free
from luthier.files.download import download
from luthier.terminal.printing import say
from luthier.terminal.progress import progress
from luthier.tokenizers.formats.gpt2 import SHA256

SOURCE = "https://openaipublic.blob.core.windows.net/gpt-2/models"
SIZES = {"gpt2-124m": "124M", "gpt2-355m": "355M", "gpt2-774m": "774M", "gpt2-1558m": "1558M"}
PREFIX = "model.ckpt"
FILES = (  # the large one last: what is wrong shows early
    "checkpoint",
    "hparams.json",
    "encoder.json",
    "vocab.bpe",
    f"{PREFIX}.meta",
    f"{PREFIX}.index",
    f"{PREFIX}.data-00000-of-00001",
)

ABOUT = """Download a published model.

    luthier get gpt2-124m                   # 0.5 GB, into ./gpt2-124m
    luthier get gpt2-1558m --out models/xl  # 6.2 GB
    luthier generate gpt2-124m "The capital of France is"

A download that was stopped goes on with the file that it was at.
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[
        Literal["gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL"),
    ]
    """gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m."""
    out: Path | None = None
    """The folder to write; of the model's name unless given."""


def main(arguments: list[str]) -> int:
    """Download, check, and say what was written."""
    given = tyro.cli(Arguments, prog="luthier get", description=ABOUT, args=arguments)
    out = given.out or Path(given.model)
    if not is_free(out):
        raise UsageError(f"{out} is already there: name another folder with --out")
    get(given.model, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(f"wrote {out} ({size / 1e6:,.1f} MB): luthier generate {out} 'The capital of France is'")
    return 0


def get(name: str, out: Path) -> None:
    """Fetch a model's files into a hidden folder beside `out`, check them, and give the folder its name.

    Raises LuthierError where the network or the disk fails, and for files that are damaged or of another model.
    """
    url = f"{SOURCE}/{SIZES[name]}"
    part = out.absolute().with_name(f".{out.name}.{name}.part")
    for file in FILES:
        if (part / file).is_file():  # whole, since it has its name
            continue
        try:
            download(f"{url}/{file}", part / file, sha256=SHA256.get(file), size=None)
        except LuthierError as error:
            with contextlib.suppress(OSError):
                part.rmdir()  # where nothing has come yet
            raise LuthierError(
                f"{error}. Without this network, fetch the files elsewhere and put them into {out}: "
                f"{', '.join(FILES)} from {url}/"
            ) from error
    try:
        check(name, part)
    except LuthierError as error:
        shutil.rmtree(part)
        raise LuthierError(f"{error}; nothing was kept, try again") from None
    try:
        part.replace(out.resolve())
    except OSError as error:
        raise LuthierError(f"cannot write {out}: {error.strerror or error}; the files are in {part}") from error


def check(name: str, folder: Path) -> None:
    """Hold a folder against the model that it must be, and all its numbers against their checksums."""
    from luthier.architectures import registry
    from luthier.files.json_files import read_json
    from luthier.formats.tensorflow_bundle import TensorFlowBundle
    from luthier.model_files.openai import SPEC

    config = SPEC.settings.read(read_json(folder / "hparams.json"))
    if config != registry.preset(name):
        raise LuthierError(f"{folder / 'hparams.json'} is not that of {name}")
    bundle = TensorFlowBundle(folder / PREFIX)
    total = sum(entry.size for entry in bundle.entries.values())
    with progress(f"checking {total / 1e6:,.1f} MB", total) as advance:
        for variable, entry in bundle.entries.items():
            bundle.tensor(variable)
            advance(entry.size)
