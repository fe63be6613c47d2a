"""Load a tokenizer by path or name, including from a GGUF file. torch is only imported for GGUF."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError
from luthier.files.kind_of_file import check_download
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.load import load


def open_tokenizer(name: str | Path) -> Tokenizer:
    """Load a tokenizer as `tokenizers.load.load` does, or from a .gguf file. Raises a LuthierError."""
    path = Path(name)
    if path.suffix != ".gguf" or not path.is_file():
        return load(name)

    from luthier.formats.gguf_file import GGUFFile
    from luthier.tokenizers.formats.gguf_vocabulary import from_gguf

    check_download(path)
    fields = GGUFFile(path).fields
    try:
        tokenizer = from_gguf(fields)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    if tokenizer is None:
        raise LuthierError(f"{path} has no tokenizer")
    return tokenizer
