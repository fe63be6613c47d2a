"""Meta's `tokenizer.model` of Llama 3 and 4, for Meta's programs (see tiktoken_model.py for what it holds)."""

from __future__ import annotations

import base64
import json

from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.formats.tiktoken_model import FAMILIES


def tiktoken_file(tokenizer: Tokenizer) -> bytes | None:
    """The file that gives the same ids in Meta's code; None for a tokenizer that is not Llama 3's or 4's.

    Pre-tokenization and the special tokens after the ranks are hard-coded in Meta's code.
    """
    words = tokenizer.backend.pre_tokenizer
    steps = json.loads(words.__getstate__()).get("pretokenizers", []) if words is not None else []
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    for family in FAMILIES.values():
        special = family.special_tokens()
        n_ranks = tokenizer.vocab_size - len(special)
        ends = {token: tokenizer.special_tokens.get(token) for token in special[:2]}
        if patterns == [family.words] and list(ends.values()) == [n_ranks, n_ranks + 1]:
            ranks = [tokenizer.piece(number) for number in range(n_ranks)]
            return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(ranks))
    return None
