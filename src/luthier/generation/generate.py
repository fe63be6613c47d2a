"""Generate text from prompts in a batch; each sequence stops on its own.

Shapes: B sequences of the batch, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from luthier.errors import LuthierError, remark, setting
from luthier.generation import prompt_lookup
from luthier.generation.beam import beam_search
from luthier.generation.decoding_session import DecodingSession
from luthier.generation.draft import Draft, ModelDrafter
from luthier.generation.prompt_lookup import PromptLookup
from luthier.generation.sampling import choose, uniforms
from luthier.generation.sequence import GeneratedSequence, Result
from luthier.generation.settings import GenerationSettings
from luthier.generation.speculative import DrafterChain, sample_speculatively
from luthier.memory import check_fits
from luthier.model.transformer import Transformer

LOGITS = 4  # float32 copies of a sequence's logits: raw, penalized, filtered, probabilities

if TYPE_CHECKING:
    from luthier.tokenizers.core.tokenizer import Tokenizer

MAX_NAMES = 3  # special tokens named in a warning


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[str], *, special: bool = False, hint: str = ""
) -> list[list[int]]:
    """Token ids of prompts, preceded by the bos token if the tokenizer adds one.

    special: parse special tokens ("<|im_start|>") in them. Otherwise they are encoded as plain text, and a special
    token's name in a prompt causes a warning, which ends with hint: how to enable `special`. An empty
    prompt starts a new text: it becomes the bos token, or else the eos token; raises a LuthierError if the tokenizer
    has neither, or for a prompt that it cannot encode.
    """
    if not special:
        warn_special_names(tokenizer.special_tokens, prompts, hint=hint)
    texts = tokenizer.encode_batch(prompts, special=special)
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    texts = [ids if special and begin and ids[:1] == begin else begin + ids for ids in texts]  # not twice
    return [ids or [first_token(tokenizer)] for ids in texts]


def warn_special_names(names: Iterable[str], texts: Sequence[str], *, what: str = "the prompt", hint: str = "") -> None:
    """Warn about special tokens' names in texts that are encoded as plain text. what: the texts, in the warning."""
    found = [name for name in names if any(name in text for text in texts)]
    if found:
        more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
        shown = ", ".join(found[:MAX_NAMES]) + more
        remark(f"{what} has {shown} in it, read as plain text and not as a special token{hint}")


def first_token(tokenizer: Tokenizer) -> int:
    """The token that begins a text: bos, or eos if there is no bos."""
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is None:
        raise LuthierError("the prompt is empty, and this tokenizer has no token that begins a text: give a character")
    return first


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    context_length: int,
    draft: Draft | None = None,
) -> list[Result]:
    """Generate continuations of prompts (token ids, see `encode_prompts`), in their order, `samples` for each prompt.

    draft: draft model for a single text, see `generate_stream`. Raises a LuthierError for a prompt without tokens or
    with context_length or more, and for NaN logits.
    """
    sequences = new_sequences(tokenizer, prompts, settings, context_length)
    for _ in generate_stream(model, sequences, settings, draft, exclusive=True):
        pass
    return [sequence.result for sequence in sequences]


def new_sequences(
    tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], settings: GenerationSettings, context_length: int
) -> list[GeneratedSequence]:
    """The sequences to generate: `samples` for each prompt, consecutively."""
    return [
        GeneratedSequence(tokenizer, prompt, settings, context_length, number)
        for prompt in prompts
        for number in range(settings.samples)
    ]


@torch.inference_mode()
def generate_stream(
    model: Transformer,
    sequences: Sequence[GeneratedSequence],
    settings: GenerationSettings,
    draft: Draft | None = None,
    *,
    exclusive: bool = False,
) -> Iterator[tuple[GeneratedSequence, str]]:
    """Generate sequences (see `new_sequences`) in one batch. Yields pieces of text with their sequence as they come.

    Beam search yields one piece per sequence, at its end. draft: draft model of the same vocabulary for speculative
    decoding, used for a single sequence without beam search if prompt lookup finds no draft; the text is the same
    without it (see speculative.py). exclusive: nothing changes the models before the last piece, so the compiled step
    does not compare them with their state before each token, a tenth of its time for a small model.
    """
    if not sequences:
        return
    prompts = [sequence.prompt for sequence in sequences[:: settings.samples]]
    room = max(sequence.room for sequence in sequences)
    vocab_size = sequences[0].tokenizer.vocab_size
    check_memory(model, sequences, settings)
    with eval_mode(model), eval_mode(draft.model) if draft else nullcontext():
        session = DecodingSession(model, prompts, room, vocab_size=vocab_size, use_cache=settings.use_cache)
        session.watches_model = not exclusive
        if settings.beams > 1:
            yield from beam_search(session, sequences, settings)
        elif draft is not None and len(sequences) == 1 and is_exact_in_chunks(model, len(sequences[0].prompt) + room):
            by_model = ModelDrafter(draft, sequences[0], settings)
            by_model.session.watches_model = not exclusive
            drafter = DrafterChain(PromptLookup(sequences[0].prompt), by_model)
            yield from sample_speculatively(session, sequences[0], settings, drafter)
        elif prompt_lookup.is_worthwhile(session, sequences):
            yield from sample_speculatively(session, sequences[0], settings, PromptLookup(sequences[0].prompt))
        else:
            yield from sample(session, sequences, settings, room)


def is_exact_in_chunks(model: Transformer, length: int) -> bool:
    """Whether the logits at this text length do not depend on how many tokens are fed at once."""
    return model.max_exact_length is None or length <= model.max_exact_length


def check_memory(model: Transformer, sequences: Sequence[GeneratedSequence], settings: GenerationSettings) -> None:
    """Raise a LuthierError with both sizes if the keys, values and logits of these sequences do not fit into memory."""
    texts = len(sequences) * settings.beams
    if texts == 1:
        return
    weight = model.embedding.weight
    slots = max(len(sequence.prompt) for sequence in sequences) + max(sequence.room for sequence in sequences)
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


def sample(
    session: DecodingSession, sequences: Sequence[GeneratedSequence], settings: GenerationSettings, room: int
) -> Iterator[tuple[GeneratedSequence, str]]:
    """Sample one token per step for each sequence until all sequences have ended."""
    uniform = uniforms(settings.seed, settings.samples, room)  # (samples, room)
    uniform = uniform[[sequence.number for sequence in sequences]].to(session.device)  # (B, room)
    logits = session.logits()
    prompts = [i // settings.samples for i in range(len(sequences))]
    session.select(prompts)
    logits = logits[prompts]
    for step in range(room):
        tokens = choose(logits, session.tokens, settings, uniform[:, step])  # (B,)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs.tolist(), strict=True):
            if not sequence.ended and (piece := sequence.add(token, logprob)):
                yield sequence, piece
        active = [i for i, sequence in enumerate(sequences) if not sequence.ended]
        if not active:
            return
        # dropping sequences copies the cache: worth it once half have ended. When the slots reach the context length
        # it is required: the remaining sequences have padding, which select removes
        if 2 * len(active) <= len(sequences) or session.slots == sequences[0].context_length:
            session.select(active)
            sequences, tokens, uniform = [sequences[i] for i in active], tokens[active], uniform[active]
        session.append(tokens)
        logits = session.logits()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode (no dropout) within the context; restore the mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
