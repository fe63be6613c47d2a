"""`luthier generate`: prompts in, text out.

The text goes to stdout and nothing else does; how many tokens a second, and why a text is short, go to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from luthier.cli.opening import open_draft, open_model
from luthier.cli.screen import Screen
from luthier.cli.texts import given_text, text_or_stdin
from luthier.errors import UsageError, remark
from luthier.generation.settings import GenerationSettings
from luthier.opening import Device, NumberType, Quantize
from luthier.terminal.printing import note

if TYPE_CHECKING:
    from luthier.generation.draft import Draft
    from luthier.generation.sequence import GeneratedSequence
    from luthier.language_model import LanguageModel

ABOUT = """Let a model go on with prompts. One prompt: its text comes as it is written.

    luthier generate runs/book "Once upon a time"
    luthier generate runs/book "Once upon a time" "The end" --temperature 0
    luthier generate runs/book "Once upon a time" --samples 3 --seed 7 --max-new-tokens 50
    luthier generate runs/book "Once upon a time" --beams 4
    luthier generate runs/book - < prompt.txt
    luthier generate runs/book "Once upon a time" --draft runs/small
"""
BETWEEN = "---"  # the line between two texts


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A training run, or a Hugging Face model folder."""
    prompts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT ...", help_behavior_hint="")
    ] = ()
    """Texts to go on with, all in one batch. One of them may be - to read it from stdin."""
    settings: tyro.conf.OmitArgPrefixes[GenerationSettings] = field(default_factory=GenerationSettings)
    special: bool = False
    """Read special tokens in a prompt ("<|im_start|>") as what they are; without it, their names are plain text."""
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "auto"
    """Number type to compute in; auto takes that of the model's file. bfloat16 takes half the memory of float32."""
    quantize: Quantize = "no"
    """The matrices in 8 or 4 bits, on the CPU: faster, smaller, less exact. A GGUF file's blocks stay as they are."""
    draft: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A small model of the same tokenizer, or the same model: its guesses, in 4 bits on the CPU, can save time. The
    text stays the same."""


def main(arguments: list[str]) -> int:
    """Print what the model makes of the prompts."""
    given = tyro.cli(
        Arguments,
        prog="luthier generate",
        description=ABOUT,
        args=arguments,
        config=(tyro.conf.UseAppendAction,),
    )
    if not given.prompts:
        raise UsageError('no prompt: luthier generate MODEL "Once upon a time", or - to read one from stdin')
    if given.prompts.count("-") > 1:
        raise UsageError("stdin (-) can be one of the prompts only")
    prompts = [text_or_stdin(prompt, "the prompt") for prompt in given.prompts]
    settings = replace(given.settings, stop=tuple(given_text(each, "--stop") for each in given.settings.stop))
    for line in settings.idle():
        remark(line)
    lm = open_model(given.model, given.device, given.dtype, given.quantize)
    speak(lm, prompts, settings, open_draft(given.draft, lm), special=given.special)
    return 0


def speak(
    lm: LanguageModel, prompts: Sequence[str], settings: GenerationSettings, draft: Draft | None, *, special: bool
) -> None:
    """Print each prompt with its text: a single one as it comes, several in their order at the end."""
    from luthier.generation.generate import encode_prompts, generate_stream, new_sequences

    ids = encode_prompts(lm.tokenizer, prompts, special=special, hint=": --special reads it so")
    sequences = new_sequences(lm.tokenizer, ids, settings, lm.config.context_length)
    single = len(sequences) == 1
    if draft is not None and (not single or settings.beams > 1):
        note("the draft guesses for a single text without beam search: it is not asked here")
    show = Screen()
    if single:
        show.prompt(prompts[0])
    start = time.perf_counter()
    try:
        for _, piece in generate_stream(lm.model, sequences, settings, draft, exclusive=True):
            if single:
                show.text(piece)
    finally:
        if single:
            show.text("\n")
    seconds = time.perf_counter() - start
    if not single:
        for number, sequence in enumerate(sequences):
            if number:
                show.text(f"{BETWEEN}\n")
            show.prompt(prompts[number // settings.samples])
            show.text(f"{sequence.result.text}\n")
    report(sequences, seconds)


def report(sequences: Sequence[GeneratedSequence], seconds: float) -> None:
    """How fast it was, and where the context was too short, on stderr."""
    tokens = sum(len(sequence.result.ids) for sequence in sequences)
    drafted, accepted = (
        sum(getattr(sequence.result, name) for sequence in sequences) for name in ("drafted", "accepted")
    )
    speculation = f", {accepted} of {drafted} drafted tokens accepted" if drafted else ""
    note(f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.1f} tokens/s{speculation}")
    full = sum(sequence.result.finish_reason == "context" for sequence in sequences)
    if full:
        which = "the text" if len(sequences) == 1 else f"{full} of {len(sequences)} texts"
        note(f"{which} ended where the model's context of {sequences[0].context_length} tokens is full")
