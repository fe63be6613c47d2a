"""The post-processor of a tokenizer, which adds special tokens at the beginning and end of every text."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing


def set_post_processor(backend: Backend, begin: str | None, end: str | None) -> None:
    """Set the tokens that the backend adds at the beginning and end of a text; None for no token."""
    before, after = ([token] if token else [] for token in (begin, end))
    frame = [(token, backend.token_to_id(token)) for token in dict.fromkeys(before + after)]
    if frame or backend.encode("").ids:
        backend.post_processor = TemplateProcessing(single=[*before, "$A", *after], special_tokens=frame)
