"""Generate text from prompts in a batch; each row stops on its own.

Shapes: B rows of the batch, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from luthier.errors import LuthierError, remark, setting
from luthier.generation import look_up
from luthier.generation.ahead import FirstThatKnows, sample_ahead
from luthier.generation.beam import beam_search
from luthier.generation.draft import Draft, DraftGuesser
from luthier.generation.look_up import LookUp
from luthier.generation.reader import Reader
from luthier.generation.row import Result, Row
from luthier.generation.sampling import choose, uniforms
from luthier.generation.settings import Settings
from luthier.memory import check_fits
from luthier.model.transformer import Transformer

LOGITS = 4  # float32 copies of a text's logits: raw, penalized, filtered, probabilities

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

MOST_NAMES = 3  # special tokens named in a remark


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[str], *, special: bool = False, way_out: str = ""
) -> list[list[int]]:
    """Token ids of prompts, preceded by the bos token if the tokenizer adds one.

    special: parse special tokens ("<|im_start|>") in them. Otherwise they are encoded as plain text, and a special
    token's name in a prompt causes a remark on stderr, which ends with way_out: how to ask for `special`. An empty
    prompt starts a new text: it becomes the bos token, or else the eos token; raises a LuthierError if the tokenizer
    has neither, or for a prompt that it cannot encode.
    """
    if not special:
        remark_names(tokenizer, prompts, way_out)
    texts = tokenizer.encode_batch(prompts, special=special)
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    texts = [ids if special and begin and ids[:1] == begin else begin + ids for ids in texts]  # not twice
    return [ids or [beginning(tokenizer)] for ids in texts]


def remark_names(tokenizer: Tokenizer, prompts: Sequence[str], way_out: str) -> None:
    """Warn about special tokens' names in prompts that are encoded as plain text."""
    found = [name for name in tokenizer.special_tokens if any(name in prompt for prompt in prompts)]
    if found:
        more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
        names = ", ".join(found[:MOST_NAMES]) + more
        remark(f"the prompt has {names} in it, read as plain text and not as a special token{way_out}")


def beginning(tokenizer: Tokenizer) -> int:
    """Token that starts a text: bos, or else eos."""
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is None:
        raise LuthierError("the prompt is empty, and this tokenizer has no token that begins a text: give a character")
    return first


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    context_length: int,
    draft: Draft | None = None,
) -> list[Result]:
    """Generate continuations of prompts (token ids, see `encode_prompts`), in their order, `samples` for each prompt.

    draft: draft model for a single text, see `grow`. Raises a LuthierError for a prompt without tokens or with
    context_length or more, and for NaN logits.
    """
    rows = new_rows(tokenizer, prompts, settings, context_length)
    for _ in grow(model, rows, settings, draft):
        pass
    return [row.result for row in rows]


def new_rows(
    tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], settings: Settings, context_length: int
) -> list[Row]:
    """The rows to fill: `samples` for each prompt, next to each other."""
    return [
        Row(tokenizer, prompt, settings, context_length, number)
        for prompt in prompts
        for number in range(settings.samples)
    ]


@torch.inference_mode()
def grow(
    model: Transformer, rows: Sequence[Row], settings: Settings, draft: Draft | None = None
) -> Iterator[tuple[Row, str]]:
    """Fill rows (see `new_rows`) in one batch. Yields each piece of text with its row, as it is generated.

    Beam search yields one piece per row, at its end. draft: draft model of the same vocabulary for speculative
    decoding, used for a single row without beam search where prompt lookup finds no draft; the text is the same without
    it (see ahead.py).
    """
    if not rows:
        return
    prompts = [row.prompt for row in rows[:: settings.samples]]
    room = max(row.room for row in rows)
    vocab_size = rows[0].tokenizer.vocab_size
    check_memory(model, rows, settings)
    with evaluating(model), evaluating(draft.model) if draft else nullcontext():
        reader = Reader(model, prompts, room, vocab_size=vocab_size, use_cache=settings.use_cache)
        if settings.beams > 1:
            yield from beam_search(reader, rows, settings)
        elif draft is not None and len(rows) == 1 and reads_in_any_pieces(model, len(rows[0].prompt) + room):
            guesser = FirstThatKnows(LookUp(rows[0].prompt), DraftGuesser(draft, rows[0], settings))
            yield from sample_ahead(reader, rows[0], settings, guesser)
        elif look_up.pays(reader, rows):
            yield from sample_ahead(reader, rows[0], settings, LookUp(rows[0].prompt))
        else:
            yield from sample(reader, rows, settings, room)


def reads_in_any_pieces(model: Transformer, length: int) -> bool:
    """Whether the logits at this text length do not depend on how many tokens are fed at once."""
    return model.max_exact_length is None or length <= model.max_exact_length


def check_memory(model: Transformer, rows: Sequence[Row], settings: Settings) -> None:
    """Raise a LuthierError with numbers where keys, values and logits of this many texts do not fit into memory."""
    texts = len(rows) * settings.beams
    if texts == 1:
        return
    weight = model.embedding.weight
    slots = max(len(row.prompt) for row in rows) + max(row.room for row in rows)
    keys = sum(
        2 * block.attention.n_kv_heads * block.attention.head_dim * min(slots, block.attention.mask.window or slots)
        for block in model.layers
    )
    logits = 4 * LOGITS * model.output.out_features
    each = (keys * weight.element_size() if settings.use_cache else 0) + logits
    smaller = "beams" if settings.beams > 1 else "samples or prompts"
    check_fits(
        texts * each,
        weight.device,
        f"{texts:,} texts of {slots:,} tokens at once need about",
        f"take fewer {smaller}, or a lower {setting('max_new_tokens')}",
    )


def sample(reader: Reader, rows: Sequence[Row], settings: Settings, room: int) -> Iterator[tuple[Row, str]]:
    """Sample one token per step for each row until all rows have ended."""
    numbers = uniforms(settings.seed, settings.samples, room)  # (samples, room)
    numbers = numbers[[row.number for row in rows]].to(reader.device)  # (B, room)
    logits = reader.logits()
    prompts = [i // settings.samples for i in range(len(rows))]
    reader.select(prompts)
    logits = logits[prompts]
    for step in range(room):
        tokens = choose(logits, reader.tokens, settings, numbers[:, step])  # (B,)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if not row.ended and (piece := row.add(token, logprob)):
                yield row, piece
        going = [i for i, row in enumerate(rows) if not row.ended]
        if not going:
            return
        # dropping rows copies the cache: worth it once half have ended. When the slots reach the context length it is
        # required: the remaining rows have padding, which select removes
        if 2 * len(going) <= len(rows) or reader.slots == rows[0].context_length:
            reader.select(going)
            rows, tokens, numbers = [rows[i] for i in going], tokens[going], numbers[going]
        reader.append(tokens)
        logits = reader.logits()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode (no dropout) within the context; restore the mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
