"""Proof that a model or a run is what it should be: the laws of a language model, and the sums of its files.

Shapes: B batch, T tokens, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.data import shards
from luthier.data.shards import INDEX
from luthier.errors import LuthierError
from luthier.files.unfinished import scratch_folder
from luthier.language_model import LanguageModel, load
from luthier.model.transformer import Transformer
from luthier.run.checkpoint_record import CheckpointRecord
from luthier.run.folder import RunFolder, read_checkpoint
from luthier.run.plan import edits, resolve
from luthier.run.token_splits import origin

LONGEST = 48  # tokens that a law is tried on
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of a logit, beside their spread
TEXTS = (
    "The quick brown fox, 1234 times.\n\tif x:  return 'y'  # ok",
    "Où est passée la forêt ? Ça, c'est l'été à Noël.",
    "你好，世界 😀👩‍👩‍👧 🇫🇷 العربية עברית",
    " \n\n  a\r\n\u200b\u00a0z\x00\x7f<|endoftext|></s>",
)


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    passed: bool
    figure: str


def checks_of(path: Path, lm: LanguageModel) -> Iterator[Check]:
    """Every check of a model that was loaded from `path`, one after the other."""
    yield from check_files(path)
    yield check_finite(lm.model)
    with torch.inference_mode():
        laws: dict[str, Callable[[Transformer, Tensor], Tensor]] = {
            "a later token changes nothing before it": causality,
            "token by token with the cache equals the whole": caching,
            "neighbors in a batch change nothing": neighbors,
            "padding on the left changes nothing": padding,
        }
        lm.model.eval()
        generator = torch.Generator().manual_seed(1)
        length = min(LONGEST, lm.config.context_length, lm.model.max_exact_length or LONGEST)
        tokens = torch.randint(lm.config.vocab_size, (3, length), generator=generator).to(lm.device)
        whole = lm.model(tokens).float()
        allowed = TOLERANCE[lm.dtype] * max(1.0, whole.std().item())
        for name, law in laws.items():
            yield within(name, law(lm.model, tokens), allowed)
        yield save_and_load(lm, tokens, whole, allowed)
    yield check_tokenizer(lm)


def within(name: str, difference: Tensor, allowed: float) -> Check:
    """A law holds when the largest difference of its logits is small. (One that is no number is not.)"""
    largest = difference.abs().max().item() if difference.numel() else 0.0
    return Check(name, largest <= allowed, f"logits differ by {largest:.0e} (to {allowed:.0e})")


def causality(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits before the middle, minus those when everything from the middle on is another text."""
    middle = tokens.shape[1] // 2
    other = tokens.clone()
    other[:, middle:] = (other[:, middle:] + 1) % model.embedding.num_embeddings
    difference: Tensor = model(tokens)[:, :middle].float() - model(other)[:, :middle].float()
    return difference


def caching(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits of the whole, minus those of one token at a time after the first third."""
    cache = model.make_cache(tokens.shape[1])
    third = max(1, tokens.shape[1] // 3)
    parts = [model(tokens[:, :third], cache)]
    parts += [model(tokens[:, place : place + 1], cache) for place in range(third, tokens.shape[1])]
    difference: Tensor = model(tokens).float() - torch.cat(parts, 1).float()
    return difference


def neighbors(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits of each row in its batch, minus those of the row alone."""
    alone = torch.cat([model(row[None]) for row in tokens])
    difference: Tensor = model(tokens).float() - alone.float()
    return difference


def padding(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits of a text, minus those of the same text after slots of padding."""
    slots = min(5, tokens.shape[1] - 1)
    text = tokens[:1, slots:]
    padded = torch.cat((tokens[1:2, :slots], text), 1)
    valid = torch.arange(padded.shape[1], device=tokens.device)[None] >= slots
    difference: Tensor = model(text).float() - model(padded, valid=valid)[:, slots:].float()
    return difference


def save_and_load(lm: LanguageModel, tokens: Tensor, whole: Tensor, allowed: float) -> Check:
    """Logits before saving and after loading, and the weights bit for bit."""
    name = "saved and loaded, it is the same"
    with scratch_folder("verify") as folder:
        try:
            LanguageModel(lm.model, None, lm.config).save(folder)
            again = load(folder, device=lm.device)
            before, after = lm.model.state_dict(), again.model.state_dict()
            differing = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
            if differing:
                return Check(name, False, f"{len(differing)} weights differ, the first is {differing[0]}")
            return within(name, again.model(tokens).float() - whole, allowed)
        except LuthierError as error:
            return Check(name, False, str(error))


def check_finite(model: Transformer) -> Check:
    """No weight is infinite or not a number."""
    broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    count = sum(weight.numel() for weight in model.parameters())
    figure = f"{count:,} weights" if not broken else f"in {len(broken)} tensors, the first is {broken[0]}"
    return Check("every weight is a finite number", not broken, figure)


def check_tokenizer(lm: LanguageModel) -> Check:
    """Text that is cleaned survives encoding and decoding: any text, or what can be written with the vocabulary."""
    name = "text survives the tokenizer"
    try:
        tokenizer = lm.tokenizer
    except LuthierError:
        return Check(name, True, "no tokenizer")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(tokenizer.vocab_size, (200,), generator=generator).tolist()
    own = tokenizer.decode(ids, skip_special=True)  # what a tokenizer of characters can write too
    survived, unwritable = 0, 0
    for text in (own, *TEXTS):
        try:
            decoded = tokenizer.decode(tokenizer.encode(text))
            if decoded != tokenizer.cleaned(text):
                return Check(name, False, first_difference(tokenizer.cleaned(text), decoded))
            survived += 1
        except LuthierError:  # a character without a token: a tokenizer of characters may refuse, not change
            unwritable += 1
    refused = f", {unwritable} refused" if unwritable else ""
    return Check(name, True, f"{survived} texts{refused}")


def first_difference(text: str, decoded: str) -> str:
    """The characters around the first that differs."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(text, decoded, strict=False))
    place = sum(1 for _ in pairs)
    around = slice(max(0, place - 10), place + 10)
    return f"{text[around]!r} comes back as {decoded[around]!r}"


def check_files(path: Path) -> Iterator[Check]:
    """The sums of a run's checkpoints and tokens, and whether checkpoints, tokens and run.toml agree."""
    folder = RunFolder(path)
    newest: CheckpointRecord | None = None
    for checkpoint in folder.whole_checkpoints():
        name = f"files of {checkpoint.name} are as written"
        try:
            _, newest = read_checkpoint(checkpoint)
            old = "" if newest.checksum else ", whose record has no checksum (version 0.1)"
            yield Check(name, True, f"{len(newest.sha256)} files{old}")
        except LuthierError as error:
            yield Check(name, False, str(error))
    if newest is not None and newest.recipe is not None:
        differing = edits(path, resolve(recipe=newest.recipe))
        yield Check("run.toml says what the checkpoint does", not differing, "; ".join(differing))
    if (folder.tokens / INDEX).is_file():
        yield check_tokens(folder.tokens, newest)


def check_tokens(folder: Path, record: CheckpointRecord | None) -> Check:
    """The sha256 of the shards, as the index says, and the index, as the checkpoint does."""
    name = "tokens are as written"
    try:
        splits = shards.check_files(folder)
        if record is not None and record.origin != origin(folder):
            return Check(name, False, f"{folder} is not what the checkpoint was trained on")
    except LuthierError as error:
        return Check(name, False, str(error))
    return Check(name, True, ", ".join(f"{split} {tokens:,}" for split, tokens in splits.items()))
