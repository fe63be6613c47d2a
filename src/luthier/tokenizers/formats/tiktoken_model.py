"""Meta's `tokenizer.model` of Llama 3 and Llama 4: byte-level BPE, one "base64 rank" a line, as tiktoken writes it.

The file contains only the ranks. The pre-tokenizer's pattern, and the special tokens after the ranks, are defined by
the family (Meta's `llama-models`, llama3/tokenizer.py and llama4/tokenizer.py).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from luthier.errors import LuthierError
from luthier.files.reading import read_bytes
from luthier.tokenizers.core.merges import merges_of
from luthier.tokenizers.core.pieces import BYTE_ALPHABET
from luthier.tokenizers.core.tokenizer import Tokenizer

FamilyName = Literal["llama3", "llama4"]

ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
NUMBER_TO_SPACE = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA3_WORDS = rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|" + NUMBER_TO_SPACE % ""
LLAMA4_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}?|"
    + NUMBER_TO_SPACE % "/"
)


def llama3_special_tokens() -> list[str]:
    """Llama 3's 256 special tokens, which follow its 128,000 ranks. Most were reserved in the first models."""
    named = "begin_of_text end_of_text reserved_special_token_0 reserved_special_token_1 finetune_right_pad_id step_id"
    named += " start_header_id end_header_id eom_id eot_id python_tag image"
    names = [*named.split(), *(f"reserved_special_token_{number}" for number in range(2, 246))]
    return [f"<|{name}|>" for name in names]


def llama4_special_tokens() -> list[str]:
    """Llama 4's 2,048 special tokens, which follow its 200,000 ranks."""

    def reserved(group: str, first: int, last: int) -> list[str]:
        return [f"{group}_reserved_special_token_{number}" for number in range(first, last + 1)]

    names = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]
    names += ["header_start", "header_end", "eom", "eot", "step", *reserved("text_post_train", 0, 5)]
    names += ["python_start", "python_end", "finetune_right_pad", *reserved("text_post_train", 8, 68)]
    names += ["image_start", "image_end", *reserved("vision", 0, 1), "tile_x_separator", "tile_y_separator"]
    names += [*reserved("vision", 2, 5), "image", *reserved("vision", 6, 6), "patch", *reserved("vision", 7, 1047)]
    names += [*reserved("reasoning", 0, 7), "reasoning_thinking_start", "reasoning_thinking_end"]
    names += [f"reserved_special_token_{number}" for number in range(2048 - len(names))]
    return [f"<|{name}|>" for name in names]


class Family(NamedTuple):
    """Properties of a family's tokenizer that the file does not contain."""

    ranks: int  # of the published file
    words: str
    special_tokens: Callable[[], list[str]]
    pad: str
    ends: tuple[str, ...]  # the end of a text, of a message and of a turn


FAMILIES: dict[FamilyName, Family] = {
    "llama3": Family(
        128_000,
        LLAMA3_WORDS,
        llama3_special_tokens,
        "<|finetune_right_pad_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "llama4": Family(
        200_000,
        LLAMA4_WORDS,
        llama4_special_tokens,
        "<|finetune_right_pad|>",
        ("<|end_of_text|>", "<|eom|>", "<|eot|>"),
    ),
}


def is_tiktoken(data: bytes) -> bool:
    """Whether a file's content starts like this format."""
    try:
        _read_line(data[:1000].split(b"\n")[0])
    except ValueError:
        return False
    return True


def read_tiktoken(path: str | Path, family: FamilyName | None = None) -> Tokenizer:
    """Load the tokenizer of a file of ranks. family: detected by the number of ranks unless given.

    Raises LuthierError for a broken file, and for one of neither family.
    """
    path = Path(path)
    ranks = _read_ranks(path)
    if family is None:
        family = next((name for name, known in FAMILIES.items() if known.ranks == len(ranks)), None)
    if family is None:
        known = " or ".join(f"{family.ranks:,} ({name})" for name, family in FAMILIES.items())
        raise LuthierError(
            f'{path} has {len(ranks):,} ranks, not {known}: say which with read_tiktoken(path, "llama3")'
        )
    return build(ranks, FAMILIES[family])


def build(ranks: dict[bytes, int], family: Family) -> Tokenizer:
    """The tokenizer of a family with these ranks."""

    def written(piece: bytes) -> str:
        return "".join(map(BYTE_ALPHABET.__getitem__, piece))

    # ignore_merges: a word that is a token itself is that token, even if no merges lead there, as in tiktoken
    model = BPE(
        {written(piece): rank for piece, rank in ranks.items()},
        [(written(left), written(right)) for left, right in merges_of(ranks, ranks)],
        ignore_merges=True,
    )
    backend = Backend(model)
    backend.pre_tokenizer = Sequence(
        [Split(Regex(family.words), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = ByteLevelDecoder()
    special = family.special_tokens()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ends = [len(ranks) + special.index(token) for token in family.ends]
    return Tokenizer(backend, bos=special[0], eos=special[1], pad=family.pad, eos_ids=ends)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            piece, rank = _read_line(line)
        except ValueError:
            raise LuthierError(f'{path}, line {number}: not "base64 rank", as tiktoken writes it') from None
        if rank != len(ranks) or piece in ranks or not piece:
            raise LuthierError(f"{path}, line {number}: rank {rank} is out of order or its token was there before")
        ranks[piece] = rank
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise LuthierError(f"{path} has no token for {len(missing)} of the 256 bytes, so it cannot write every text")
    return ranks


def _read_line(line: bytes) -> tuple[bytes, int]:
    piece, rank = line.split()
    try:
        return base64.b64decode(piece, validate=True), int(rank)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
