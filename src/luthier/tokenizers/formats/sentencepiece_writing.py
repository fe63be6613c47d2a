"""Write a SentencePiece `tokenizer.model` for Meta's Llama 2 code: BPE with byte fallback.

The pieces' scores are the negative index of the first merge that gives each piece, which suffices for BPE. The result
is loaded again and must split test texts like the tokenizer; otherwise no file is written.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from luthier.errors import LuthierError
from luthier.files.protobuf_wire import field
from luthier.tokenizers.core.cleaning import clean
from luthier.tokenizers.core.pieces import BYTE, SPACE
from luthier.tokenizers.core.steps import cleaning_of, steps
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.sentencepiece_file import Algorithm, Kind, Model, Piece
from luthier.tokenizers.formats.sentencepiece_model import build

PREPENDED = {" ", SPACE}
SAMPLES = (
    "",
    "Hello, world!  It's   12345.67 times\n\n\tfaster.",
    " leading and trailing ",
    "L'été où naît l'œuvre, 日本語 и Привет 👩🏽\u200d💻\x00\u00a0",
    "def f(x):\n    return x  +  1  # \u2581 <s> </s>",
)


def sentencepiece_file(tokenizer: Tokenizer) -> bytes | None:
    """The file that gives the same ids in Meta's code; None if SentencePiece cannot express the tokenizer."""
    model = model_of(tokenizer)
    if model is None:
        return None
    try:
        again = build(model)
    except LuthierError:
        return None
    # clean ones: what a run's tokenizer cleans texts by is not in this file
    form = cleaning_of(tokenizer.backend.normalizer)
    samples = SAMPLES if form is None else [clean(sample, form) for sample in SAMPLES]
    # transformers' rule stands for SentencePiece's, and differs for texts that begin with a space (see gguf_writing)
    if _metaspace(tokenizer):
        samples = [sample for sample in samples if not sample.startswith((" ", SPACE))]
    if any(again.encode(sample) != tokenizer.encode(sample) for sample in samples):
        return None
    return encode_model(model)


def model_of(tokenizer: Tokenizer) -> Model | None:
    """The Model of a tokenizer's `.model` file; None if it cannot express the tokenizer."""
    state: dict[str, Any] = json.loads(tokenizer.backend.to_str())
    bpe, unknown = state["model"], tokenizer.roles["unk_token"]
    if bpe["type"] != "BPE" or not bpe["byte_fallback"] or unknown is None:
        return None
    names = {number: text for text, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    if sorted(names) != list(range(len(names))):
        return None
    added = {token["content"]: token["special"] for token in state["added_tokens"]}
    made: dict[str, int] = {}
    for left, right in bpe["merges"]:
        made.setdefault(left + right, len(made))

    def kind(text: str) -> Kind:
        if text == unknown:
            return Kind.UNKNOWN
        if text in added:
            return Kind.CONTROL if added[text] else Kind.USER_DEFINED
        return Kind.BYTE if BYTE.fullmatch(text) else Kind.NORMAL

    texts = [names[number] for number in range(len(names))]
    pieces = [Piece(text, -float(made.get(text, len(made))), kind(text)) for text in texts]
    roles = {role: tokenizer.roles[f"{role}_token"] or f"<no {role}>" for role in ("unk", "bos", "eos", "pad")}
    normalizer = state["normalizer"] or {}
    normalizing = normalizer.get("normalizers", [normalizer])
    prefix = any(step.get("type") == "Prepend" and step["prepend"] in PREPENDED for step in normalizing)
    prefix = prefix or any(step["prepend_scheme"] != "never" for step in _metaspace(tokenizer))
    return Model(pieces, Algorithm.BPE, True, False, roles, "identity", b"", prefix, False, True)


def _metaspace(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The step of transformers that adds a leading space, if the tokenizer has it."""
    return [step for step in steps(tokenizer.backend.pre_tokenizer)[:1] if step["type"] == "Metaspace"]


def encode_model(model: Model) -> bytes:
    """Encode a Model as a protocol buffers message (sentencepiece_model.proto)."""
    pieces = [
        field(1, field(1, piece.text.encode()) + b"\x15" + struct.pack("<f", piece.score) + field(3, piece.kind))
        for piece in model.pieces
    ]
    trainer = field(3, model.algorithm) + field(4, len(model.pieces)) + field(35, model.byte_fallback)
    texts = [piece.text for piece in model.pieces]
    for number, role in enumerate(("unk", "bos", "eos", "pad")):
        text = model.roles[role]
        place = texts.index(text) if text in texts else 2**64 - 1  # -1
        trainer += field(40 + number, place) + field(45 + number, text.encode())
    normalizer = field(1, model.rules_name.encode()) + field(3, model.add_dummy_prefix)
    normalizer += field(4, model.remove_extra_whitespaces) + field(5, model.escape_whitespaces)
    return b"".join(pieces) + field(2, trainer) + field(3, normalizer)
