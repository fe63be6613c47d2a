"""One training run from start to end: prepare, train, look, sample, save, and go on after a stop."""

from __future__ import annotations

import math
import re
import shlex
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.data.shards import TokenShards
from luthier.errors import LuthierError, UsageError
from luthier.generation.generate import encode_prompts, new_rows
from luthier.generation.settings import Settings as GenerationSettings
from luthier.language_model import LanguageModel, load
from luthier.run import corpus, cost, speed
from luthier.run.folder import RunFolder
from luthier.run.pictures import draw_losses
from luthier.run.plan import Plan, check_resumable, read_run, resolve, with_vocabulary
from luthier.run.watch import Watch, duration, forget_after, read_lines, say, tensorboard_writer, warn
from luthier.training.balance import imbalance
from luthier.training.flops import flops_per_token
from luthier.training.loop import NonFiniteError, StepResult, Trainer
from luthier.training.machine import choose_device, keep_freed_memory, matrix_product_peak, peak_memory


class InterruptedRunError(LuthierError):
    """Ctrl-C or SIGTERM: the step was finished and saved."""

    exit_code = 130


def start(plan: Plan, out: Path) -> Path:
    """Train what the plan says into a new folder. Returns the folder."""
    folder = RunFolder(out)
    device = choose_device(plan.settings.device)
    registry.build_on_meta(plan.model)  # a head that does not divide is better known before the text is read
    if plan.settings.tensorboard:
        tensorboard_writer()
    set_threads(plan)
    folder.create()
    with folder.discarded_on_error():
        tokenizer, tokens = corpus.prepare_tokens(plan, folder.tokens)
        plan = with_vocabulary(plan, tokenizer.vocab_size)
        for warning in cost.check(plan, folder, device):
            warn(warning)
        model = registry.build(plan.model, seed=plan.settings.seed, device=device)
        run = Run(plan, folder, LanguageModel(model, tokenizer, plan.model), tokens)
        run.plan = replace(plan, settings=speed.choose_precision(run.trainer, plan.settings))
        folder.recipe.write_text(run.plan.toml(), encoding="utf-8")
    run.go()
    return out


def resume(out: Path, options: dict[str, Any], model: dict[str, Any], data: tuple[str, ...]) -> Path:
    """Go on with a run where its last checkpoint stands. Options are those that may change (see plan.MAY_CHANGE)."""
    folder = RunFolder(out)
    plan = check_resumable(options, model, data, resolve(recipe=read_run(out), where=str(folder.recipe)))
    checkpoint, tensors, record = folder.newest_checkpoint()
    set_threads(plan)
    lm = load(checkpoint, device=choose_device(plan.settings.device))
    run = Run(plan, folder, lm, corpus.prepared_folder(plan) or folder.tokens)
    run.trainer.restore(tensors, record["trainer"])
    run.best, run.seconds_before = record["best"], record["seconds"]
    run.recent = [StepResult(**result) for result in record["recent"]]
    if run.trainer.step >= run.trainer.total_steps:
        raise LuthierError(f"{out} is at step {run.trainer.step}, where it was to end: give more --steps or --epochs")
    for path in (folder.metrics, folder.samples):
        forget_after(path, run.trainer.step)
    say(f"going on from {checkpoint}")
    folder.recipe.write_text(plan.toml(), encoding="utf-8")
    run.go()
    return out


def set_threads(plan: Plan) -> None:
    """Prepare the process: its threads and its memory."""
    if plan.settings.threads:
        torch.set_num_threads(plan.settings.threads)
    keep_freed_memory()


class Run:
    """A run in progress."""

    def __init__(self, plan: Plan, folder: RunFolder, lm: LanguageModel, tokens: Path) -> None:
        self.plan, self.folder, self.lm = plan, folder, lm
        self.settings = plan.settings
        self.train_tokens, self.validation_tokens = corpus.open_splits(tokens)
        batches = corpus.make_batches(plan, self.train_tokens, lm.tokenizer)
        self.steps_per_epoch = batches.batches_per_epoch / self.settings.accumulation
        self.trainer = Trainer(lm.model, batches, self.settings, corpus.steps_in_all(self.settings, batches))
        self.prompt = self.settings.sample_prompt or self.default_prompt()
        self.check_prompt()
        self.best = math.inf
        self.seconds_before = 0.0
        self.recent: list[StepResult] = []

    def go(self) -> None:
        """Train to the end, or until Ctrl-C."""
        trainer, settings = self.trainer, self.settings = self.trainer, self.plan.settings
        trainer.dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        self.peak = matrix_product_peak(trainer.device, trainer.dtype)
        self.flops = flops_per_token(trainer.model, self.plan.model.context_length)
        self.began = time.monotonic()
        say(self.headline())
        board = self.folder.path / "tensorboard" if settings.tensorboard else None
        with (
            Watch(self.folder.metrics, self.folder.samples, trainer.total_steps, trainer.step, board) as self.watch,
            finish_on_signal() as stop,
        ):
            if not self.folder.metrics.exists():
                self.look()
            compiler = speed.Compiler(trainer, settings)
            while trainer.step < trainer.total_steps:
                self.one_step()
                if stop and trainer.step < trainer.total_steps:
                    self.interrupted()
                compiler.stepped(self.recent)
        draw_losses(read_lines(self.folder.metrics), self.folder.path.name, self.folder.picture)
        self.summary()

    def one_step(self) -> None:
        """A step, and what is due after it."""
        trainer = self.trainer
        try:
            result = trainer.train_step()
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}. {self.last_good()}") from None
        self.recent.append(result)
        self.watch.stepped(trainer.step, result.loss, result.tokens / result.seconds)
        last = trainer.step == trainer.total_steps
        look_due, sample_due = self.due(self.look_every), self.due(self.sample_every)
        if look_due or sample_due or last:  # a sample is worth little without the loss that goes with it
            self.look()
        if sample_due or last:
            self.sample()
        if last or self.due(self.settings.save_every or self.look_every):
            self.save()

    def last_good(self) -> str:
        """Where the last good weights are. Those of now are not saved: they may have burst already."""
        whole = self.folder.whole_checkpoints()
        return f"The last good state is in {whole[-1] if whole else self.folder.path}"

    def due(self, every: float) -> bool:
        """Whether a multiple of `every` steps, which may be a fraction, has just been reached."""
        return every > 0 and int(self.trainer.step / every) > int((self.trainer.step - 1) / every)

    @property
    def look_every(self) -> float:
        """Steps between two looks."""
        return self.settings.evaluate_every or max(1.0, self.trainer.total_steps / 20)

    @property
    def sample_every(self) -> float:
        """Steps between two samples: an epoch, where the run counts in epochs."""
        in_epochs = self.settings.steps == 0 and self.settings.epochs > 1
        return self.settings.sample_every or (self.steps_per_epoch if in_epochs else self.trainer.total_steps / 5)

    def look(self) -> None:
        """Measure, write down, show; keep the weights when they are the best so far."""
        trainer = self.trainer
        look: dict[str, Any] = {"step": trainer.step, "epoch": trainer.step / self.steps_per_epoch}
        look |= {"tokens": trainer.tokens, "train_loss": self.loss_on(self.train_tokens, limit=True)}
        if self.validation_tokens is not None:
            look["validation_loss"] = self.loss_on(self.validation_tokens, limit=False)
        held_out = look.get("validation_loss", look["train_loss"])
        if not math.isfinite(held_out + look["train_loss"]):
            raise NonFiniteError(
                f"after step {trainer.step} the training loss is {look['train_loss']} and the loss on held-out text "
                f"{held_out}: lower learning_rate or raise warmup. {self.last_good()}"
            )
        look["perplexity"] = math.exp(min(held_out, 700))
        look["bits_per_byte"] = corpus.bits_per_byte(held_out, self.validation_tokens or self.train_tokens)
        if self.recent:
            look |= speed.summary(self.recent, self.flops, self.peak)
            if self.recent[-1].loads:
                loads = [
                    [statistics.fmean(e) for e in zip(*layer, strict=True)]
                    for layer in zip(*(result.loads for result in self.recent), strict=True)
                ]
                look |= {"expert_loads": loads, "imbalance": max(imbalance(layer) for layer in loads)}
        look |= {"seconds": self.seconds, "peak_memory": peak_memory(trainer.device)}
        self.recent.clear()
        self.watch.looked(look)
        if held_out < self.best:
            self.best = held_out
            self.lm.save(self.folder.path)

    def loss_on(self, tokens: TokenShards, *, limit: bool) -> float:
        """The mean loss over evaluate_batches batches of a split; 0 means the whole validation text."""
        n_batches = self.settings.evaluate_batches or (8 if limit else None)
        batches = corpus.batches_to_look_at(self.plan, tokens, self.lm.tokenizer, n_batches)
        with torch.compiler.set_stance("force_eager"):  # compiling a second, gradient-free block would cost more
            return self.trainer.evaluate(batches)

    def sample(self) -> None:
        """Let the model speak."""
        self.lm.model.eval()
        with torch.compiler.set_stance("force_eager"):
            new = self.lm.generate(
                self.prompt, max_new_tokens=self.settings.sample_tokens, temperature=self.settings.sample_temperature,
                seed=self.settings.seed,
            )[0]  # fmt: skip
        trainer = self.trainer
        place = {"step": trainer.step, "epoch": trainer.step / self.steps_per_epoch}
        self.watch.sampled({**place, "prompt": self.prompt, "text": self.prompt + new})

    def check_prompt(self) -> None:
        """A UsageError, before the first step, for a prompt that the tokenizer or the context cannot take."""
        try:
            ids = encode_prompts(self.lm.tokenizer, [self.prompt])
            new_rows(self.lm.tokenizer, ids, GenerationSettings(), self.plan.model.context_length)
        except LuthierError as error:
            raise UsageError(f"sample_prompt {self.prompt!r}: {error}") from None

    def default_prompt(self) -> str:
        """The first words of the held-out text."""
        tokens = self.validation_tokens or self.train_tokens
        length = min(64, len(tokens), self.plan.model.context_length // 2)
        text = self.lm.tokenizer.decode(tokens[: max(1, length)].tolist(), skip_special=True)
        words = re.search(r"\S+(\s+\S+){0,2}", text)  # not split and joined: the tokenizer may know no space
        return words.group() if words else text

    @property
    def seconds(self) -> float:
        """Time spent on this run, before a resume too."""
        return self.seconds_before + time.monotonic() - self.began

    def save(self) -> Path:
        """Write a checkpoint."""
        tensors, record = self.trainer.state()
        record = {"step": self.trainer.step, "trainer": record, "best": self.best, "seconds": self.seconds}
        record["recent"] = [asdict(result) for result in self.recent]  # since the last look, which will average them
        return self.folder.save_checkpoint(self.lm, tensors, record)

    def interrupted(self) -> None:
        """Save, and say how to go on."""
        saved = self.save()
        raise InterruptedRunError(
            f"stopped at step {self.trainer.step} of {self.trainer.total_steps}, saved in {saved}; "
            f"go on with: luthier train --out {shlex.quote(str(self.folder.path))} --resume"
        )

    def headline(self) -> str:
        """What is about to happen, in two lines."""
        settings, trainer = self.settings, self.trainer
        total, active = registry.count_parameters(self.plan.model)
        active_too = f" ({active:,} active)" if active != total else ""
        batch = settings.batch_size * settings.accumulation * self.plan.model.context_length
        return (
            f"{settings.preset}: {total:,} parameters{active_too}, {len(self.train_tokens):,} training tokens, "
            f"a vocabulary of {self.plan.model.vocab_size:,}\n"
            f"{trainer.total_steps:,} steps of {batch:,} tokens with {settings.optimizer} in {settings.precision} on "
            f"{trainer.device.type}; peak of its matrix products {self.peak / 1e9:,.0f} GFLOP/s"
        )

    def summary(self) -> None:
        """Where everything lies, and what to do next."""
        path, looks = self.folder.path, read_lines(self.folder.metrics)
        say(table_by_epoch(looks))
        kind = "validation" if self.validation_tokens is not None else "train"
        best = min(looks, key=lambda look: float(look[f"{kind}_loss"]))
        say(f"done in {duration(self.seconds)}: best {kind} loss {best[f'{kind}_loss']:.4f} at step {best['step']:,}")
        say(f"  weights   {path} (the best)")
        say(f"            {self.folder.whole_checkpoints()[-1]} (the last)")
        say(f"  log       {self.folder.metrics}, {self.folder.samples}")
        say(f"  picture   {self.folder.picture}")
        say(f"  speak     luthier generate {shlex.quote(str(path))} {shlex.quote(self.prompt)}")


def table_by_epoch(looks: list[dict[str, Any]]) -> str:
    """The looks nearest to each epoch's end, as a table; at most 12 rows."""
    epochs = max(1, math.floor(looks[-1]["epoch"] + 1e-6))
    wanted = {0, *(round(epochs * i / 11) for i in range(12))} if epochs > 1 else set()
    rows = [looks[0]] + [min(looks, key=lambda look: abs(look["epoch"] - epoch)) for epoch in sorted(wanted - {0})]
    if looks[-1] is not rows[-1]:
        rows.append(looks[-1])
    lines = ["epoch     step       tokens    train  validation  perplexity"]
    for row in rows:
        validation = row.get("validation_loss")
        shown = f"{validation:>11.4f}" if validation is not None else f"{'-':>11}"
        lines.append(
            f"{row['epoch']:>5.1f} {row['step']:>8} {row['tokens']:>12,} {row['train_loss']:>8.4f} {shown}"
            f" {row['perplexity']:>11,.1f}"
        )
    return "\n".join(lines)


@contextmanager
def finish_on_signal() -> Iterator[list[int]]:
    """Yields a list that a first Ctrl-C or SIGTERM fills, so that the step can end. A second one interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say("stopping after this step (once more to stop at once)")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: then signals are not ours to take
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
