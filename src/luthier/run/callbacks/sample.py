"""Text that a model generates while it trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import torch

from luthier.data.shards import TokenShards
from luthier.errors import LuthierError, UsageError, setting
from luthier.generation.generate import encode_prompts, new_sequences
from luthier.generation.settings import GenerationSettings
from luthier.language_model import LanguageModel
from luthier.run.callbacks.reporting import Logger
from luthier.run.intervals import Intervals
from luthier.run.snapshots import snapshot
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.training.callback import Callback
from luthier.training.loop import StepResult, Trainer
from luthier.training.settings import Settings

# up to three words that another one follows, so that the last is whole
SENTENCE_START = re.compile(r"""(?:\n\s*|[.!?](?:\s?["'”’»)])*\s+)(?=(\w\S*(?:[^\S\n]+\S+){0,2})\s)""")
WORD_START = re.compile(r"\s(\S+(?:[^\S\n]+\S+){0,2})(?=\s)")


class Sample(Callback):
    """Generates a continuation of one prompt."""

    def __init__(
        self,
        lm: LanguageModel,
        trainer: Trainer,
        settings: Settings,
        prompt: str,
        intervals: Intervals,
        loggers: Sequence[Logger],
    ) -> None:
        self.lm, self.trainer, self.settings, self.prompt = lm, trainer, settings, prompt
        self.intervals, self.loggers = intervals, loggers

    def after_step(self, result: StepResult) -> None:
        if self.intervals.sample_due(self.trainer.step):
            self.sample()

    def sample(self) -> None:
        """Generate, on the first process only, and hand the text to the loggers."""
        lm = snapshot(self.lm) if self.trainer.sharded else self.lm
        if not self.trainer.world.is_first:
            return
        lm.model.eval()
        with torch.compiler.set_stance("force_eager"):
            new = lm.generate(
                self.prompt, max_new_tokens=self.settings.sample_tokens, temperature=self.settings.sample_temperature,
                seed=self.settings.seed,
            )[0]  # fmt: skip
        step = self.trainer.step
        place = {"step": step, "epoch": self.intervals.epoch(step)}
        for logger in self.loggers:
            logger.sampled({**place, "prompt": self.prompt, "text": self.prompt + new})


def check_prompt(prompt: str, tokenizer: Tokenizer, context_length: int) -> None:
    """Raise a UsageError, before the first step, for a prompt that the tokenizer or the context cannot take."""
    try:
        new_sequences(tokenizer, encode_prompts(tokenizer, [prompt]), GenerationSettings(), context_length)
    except LuthierError as error:
        raise UsageError(f"{setting('sample_prompt')} {prompt!r}: {error}") from None


def default_prompt(tokens: TokenShards, tokenizer: Tokenizer, context_length: int) -> str:
    """Up to three whole words from the start of a line or sentence in a text; a split may begin in mid-word."""
    text = tokenizer.decode(tokens[: min(512, len(tokens))].tolist(), skip_special=True)
    sentences = (found for found in SENTENCE_START.finditer(text) if found[0][0] == "\n" or not found[1][0].islower())
    for found in chain(sentences, WORD_START.finditer(text)):
        for prompt in (found[1], found[1].split(maxsplit=1)[0]):
            if len(tokenizer.encode(prompt)) <= context_length // 2:
                return prompt
    return tokenizer.decode(tokens[: max(1, min(64, len(tokens), context_length // 2))].tolist(), skip_special=True)
