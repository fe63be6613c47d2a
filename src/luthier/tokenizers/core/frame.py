"""What stands around every text by a tokenizer's own rule: the token that begins it, the one that ends it, or none."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing


def set_frame(backend: Backend, begin: str | None, end: str | None) -> None:
    """Have texts begin and end with these tokens, and with no others."""
    before, after = ([token] if token else [] for token in (begin, end))
    frame = [(token, backend.token_to_id(token)) for token in dict.fromkeys(before + after)]
    if frame or backend.encode("").ids:
        backend.post_processor = TemplateProcessing(single=[*before, "$A", *after], special_tokens=frame)
