"""OpenAI's GPT-2, downloaded from where OpenAI published it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from luthier.architectures import registry
from luthier.errors import LuthierError, UsageError, setting
from luthier.files.atomic_folder import is_free
from luthier.files.download import download as fetch_file
from luthier.files.json_files import read_json
from luthier.formats.tensorflow_bundle import TensorFlowBundle
from luthier.model_files.openai import SPEC
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


def download(name: str, out: str | os.PathLike[str] | None = None) -> Path:
    """Download OpenAI's GPT-2 from where OpenAI published it, and check it. Returns the folder.

    A download that was stopped goes on with the file that it was at.

        >>> luthier.download("gpt2-124m", out="book.txt")
        Traceback (most recent call last):
        luthier.errors.UsageError: book.txt is already there: name another folder with out

    name: "gpt2-124m" (0.5 GB), "gpt2-355m", "gpt2-774m" or "gpt2-1558m" (6.2 GB). out: the folder to write; of the
    model's name unless given. Raises a LuthierError where the network or the disk fails, and for damaged files.
    """
    if name not in SIZES:
        raise UsageError(f"no model '{name}' to download: there are {', '.join(SIZES)}")
    folder = Path(name if out is None else out)
    if not is_free(folder):
        raise UsageError(f"{folder} is already there: name another folder with {setting('out')}")
    fetch(name, folder)
    return folder


def fetch(name: str, out: Path) -> None:
    """Fetch a model's files into a hidden folder beside `out`, check them, and give the folder its name.

    Raises LuthierError where the network or the disk fails, and for files that are damaged or of another model.
    """
    url = f"{SOURCE}/{SIZES[name]}"
    part = out.absolute().with_name(f".{out.name}.{name}.part")
    for file in FILES:
        if (part / file).is_file():  # whole, since it has its name
            continue
        try:
            fetch_file(f"{url}/{file}", part / file, sha256=SHA256.get(file), size=None)
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
    config = SPEC.settings.read(read_json(folder / "hparams.json"))
    if config != registry.preset(name):
        raise LuthierError(f"{folder / 'hparams.json'} is not that of {name}")
    bundle = TensorFlowBundle(folder / PREFIX)
    total = sum(entry.size for entry in bundle.entries.values())
    with progress(f"checking {total / 1e6:,.1f} MB", total) as advance:
        for variable, entry in bundle.entries.items():
            bundle.tensor(variable)
            advance(entry.size)
