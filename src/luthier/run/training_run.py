"""A training run in progress: train, evaluate, sample, save, and recover from a bad step."""

from __future__ import annotations

import math
import re
import shlex
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from luthier.config import to_table
from luthier.data.batches import BatchSource
from luthier.data.shards import TokenShards
from luthier.errors import LuthierError, UsageError, setting
from luthier.generation.generate import encode_prompts, new_rows
from luthier.generation.settings import Settings as GenerationSettings
from luthier.language_model import LanguageModel, load
from luthier.memory import peak_memory, total_memory
from luthier.run import corpus, resuming, speed
from luthier.run.checkpoint_record import FORMAT, CheckpointRecord, Decisions
from luthier.run.closing import closing, headline
from luthier.run.folder import RunFolder, read_checkpoint
from luthier.run.interrupt import InterruptedRunError, finish_on_signal
from luthier.run.last_pages import write_pages
from luthier.run.plan import Plan, resolve
from luthier.run.record import evaluations
from luthier.run.saver import Job, Saver, copied, snapshot
from luthier.run.watch import Nobody, Watch, forget_after
from luthier.terminal.printing import say, warn
from luthier.training.balance import load_imbalance
from luthier.training.distributed import (
    ALONE,
    World,
    check,
    choose_strategy,
    distribute_like,
)
from luthier.training.flops import flops_per_token
from luthier.training.loop import NonFiniteError, StepResult, Trainer
from luthier.training.machine import matrix_product_peak
from luthier.training.spikes import SpikeDetector

MOST_FAILURES = 5  # between two checkpoints: then something is wrong that no policy cures


class Run:
    """A run in progress."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        lm: LanguageModel,
        tokens: Path,
        world: World = ALONE,
        before: Plan | None = None,
        decided: Decisions | None = None,
    ) -> None:
        """before, decided: of a run that is resumed, its plan and its decisions until now."""
        self.plan, self.folder, self.lm, self.tokens, self.world = plan, folder, lm, tokens, world
        self.settings, self.before = plan.settings, before or plan
        self.origin = corpus.origin(tokens)
        self.train_tokens, self.validation_tokens = corpus.open_splits(tokens)
        batches = self.batches_of(plan)
        self.steps_per_epoch = batches.batches_per_epoch / self.settings.accumulation
        steps = corpus.steps_in_all(self.settings, batches)
        self.parallel = self.choose_parallel(decided)
        check(world, plan.settings.batch_size, plan.settings.optimizer, self.parallel)
        self.trainer = Trainer(lm.model, batches, replace(self.settings, parallel=self.parallel), steps, world=world)
        self.compiled = False
        self.prompt = self.settings.sample_prompt or self.default_prompt()
        self.check_prompt()
        self.best = math.inf
        self.seconds_before = 0.0
        self.recent: list[StepResult] = []
        self.spikes = SpikeDetector()
        self.failures = 0  # since the last checkpoint
        self.saver, self.jobs = Saver(), list[Job]()

    def batches_of(self, plan: Plan) -> BatchSource:
        """The training batches as a plan cuts them, from the first on."""
        return corpus.make_batches(plan, self.train_tokens, self.lm.tokenizer, self.world)

    def choose_parallel(self, decided: Decisions | None) -> Literal["ddp", "fsdp"]:
        """How several processes share the model: as asked, as the run did with as many, or by the memory there is."""
        asked = self.settings.parallel
        if decided is not None and asked == "auto" and decided.processes == self.world.size:
            return decided.parallel
        parameters = sum(weight.numel() for weight in self.lm.model.parameters())
        return choose_strategy(asked, parameters, total_memory(self.lm.device, self.world.local_size))

    def total_before(self, record: CheckpointRecord) -> int:
        """The steps of the run as its checkpoint was saved."""
        return record.total_steps or corpus.steps_in_all(self.before.settings, self.batches_of(self.before))

    def restore(self, tensors: dict[str, Tensor], record: CheckpointRecord) -> None:
        """Stand where a checkpoint does, whose weights are there already."""
        state = msgspec.to_builtins(record.trainer)
        before = resolve(recipe=record.recipe) if record.recipe else self.before
        changed = resuming.changed_names(before, self.plan) - {"data"}
        same_text = record.origin == self.origin
        self.trainer.restore(
            *resuming.adapted(
                tensors, state, changed, self.trainer, (lambda: self.batches_of(before)) if same_text else None
            )
        )
        self.best = math.inf if record.best is None else record.best
        if not same_text:
            self.best = math.inf  # a loss on another text is no measure for this one
        self.seconds_before = record.seconds
        self.recent = [StepResult(**msgspec.structs.asdict(step)) for step in record.recent]
        self.spikes.losses.clear()
        self.spikes.losses.extend(record.losses)
        if not self.world.is_first:
            return
        for path in (self.folder.metrics, self.folder.samples):
            forget_after(path, self.trainer.step)

    def go(self) -> None:
        """Train to the end, or until Ctrl-C."""
        trainer, settings = self.trainer, self.settings = self.trainer, self.plan.settings
        trainer.dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        self.peak = matrix_product_peak(trainer.device, trainer.dtype)
        self.flops = flops_per_token(trainer.model, self.plan.model.context_length)
        self.began = time.monotonic()
        say(headline(self.plan, trainer, len(self.train_tokens), self.peak))
        board = self.folder.path / "tensorboard" if settings.tensorboard else None
        watch = Watch if self.world.is_first else Nobody
        with (
            watch(self.folder.metrics, self.folder.samples, trainer.total_steps, trainer.step, board) as self.watch,
            finish_on_signal() as stop,
        ):
            if self.world.broadcast(not self.folder.metrics.exists()):
                self.look()
            self.compile()
            if trainer.step == 0:
                self.save()  # what a first bad step goes back to
                self.submit()
            while trainer.step < trainer.total_steps:
                self.one_step()
                if self.world.any(bool(stop)) and trainer.step < trainer.total_steps:
                    self.interrupted()
            self.flush()
        if not self.world.is_first:
            return
        measured = evaluations(self.folder.metrics)
        say(closing(self.folder, measured, self.seconds, self.prompt, write_pages(self.folder, measured)))

    def compile(self) -> None:
        """Compile, when that is decided; what it came to is what checkpoints record."""
        if self.compiled and not speed.compile_blocks(self.trainer):
            self.compiled = False
            if self.trainer.step:
                warn("the run was compiled until now: sums will round otherwise")

    def one_step(self) -> None:
        """A step, and what is due after it."""
        trainer = self.trainer
        self.saver.check()
        try:
            result = trainer.train_step()
        except NonFiniteError as error:
            trainer.skip()
            self.recover(str(error), self.settings.non_finite)
            return
        self.recent.append(result)
        self.watch.stepped(trainer.step, result.loss, result.tokens / result.seconds)
        if self.spikes.sees(result.loss):
            what = f"step {trainer.step}: the loss {result.loss:.3f} is a spike: under {self.spikes.limit:.3f} is usual"
            if self.settings.spikes != "log":
                self.recover(what, self.settings.spikes)
                return
            warn(what)
        last = trainer.step == trainer.total_steps
        look_due, sample_due = self.due(self.look_every), self.due(self.sample_every)
        if look_due or sample_due or last:  # a sample is worth little without the loss that goes with it
            self.look()
        if sample_due or last:
            self.sample()
        if last or self.due(self.settings.save_every or self.look_every):
            self.save()
        self.submit()

    def submit(self) -> None:
        """Have written what is waiting, while training goes on."""
        if self.jobs:
            self.saver.submit(self.jobs)
            self.jobs = []

    def recover(self, what: str, policy: str) -> None:
        """After a step that went wrong, whose batches are behind us. Goes on as the policy says, or raises."""
        self.failures += 1
        if policy == "stop" or self.failures > MOST_FAILURES:
            raise NonFiniteError(f"{what}. {self.last_good()}")
        if policy == "skip":
            warn(f"{what}. Its batches are left out")
            return
        self.flush()
        # what stays as it is: the place in the data, the schedule, the score of the best weights on the disk, the time
        trainer, best, seconds = self.trainer, self.best, self.seconds_before
        place, anchor = trainer.batches.state(), trainer.anchor
        self.world.barrier()
        try:
            checkpoint, tensors, record = newest(self.folder, self.world)
        except LuthierError as error:
            raise NonFiniteError(f"{what}, and there is no checkpoint to go back to: {error}") from None
        weights = load(checkpoint, device=self.trainer.device).model.state_dict()
        for name, weight in self.lm.model.state_dict().items():
            weight.copy_(distribute_like(weights[name], weight))
        self.restore(tensors, record)
        trainer.batches.restore(place)
        trainer.anchor, self.best, self.seconds_before = anchor, best, seconds
        warn(f"{what}. Going back to {checkpoint}, and past those batches")

    def write(self, job: Job) -> None:
        """Have something written after this step, by the first process."""
        if self.world.is_first:
            self.jobs.append(job)

    def flush(self) -> None:
        """Wait until all is written."""
        self.saver.submit(self.jobs)
        self.jobs = []
        self.saver.wait()

    def last_good(self) -> str:
        """Where the last good weights are, if any were saved. Those of now are not: they may have burst already."""
        self.flush()
        whole = self.folder.whole_checkpoints()
        return f"The last good state is in {whole[-1]}" if whole else "No checkpoint was saved before it"

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
        look |= {"tokens": trainer.tokens, **self.measure("train", self.train_tokens, limit=True)}
        if self.validation_tokens is not None:
            look |= self.measure("validation", self.validation_tokens, limit=False)
        held_out = look.get("validation_loss", look["train_loss"])
        if not math.isfinite(held_out + look["train_loss"]):
            raise NonFiniteError(
                f"after step {trainer.step} the training loss is {look['train_loss']} and the loss on held-out text "
                f"{held_out}: lower {setting('learning_rate')} or raise {setting('warmup')}. {self.last_good()}"
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
                look |= {"expert_loads": loads, "imbalance": max(load_imbalance(layer) for layer in loads)}
        look |= {"seconds": self.seconds, "peak_memory": peak_memory(trainer.device)}
        self.recent.clear()
        self.watch.looked(look)
        if held_out < self.best:
            self.best = held_out
            best = snapshot(self.lm)
            self.write(lambda: best.save(self.folder.path))

    def measure(self, split: str, tokens: TokenShards, *, limit: bool) -> dict[str, float]:
        """Mean loss and figures over evaluate_batches batches of a split; 0 means the whole validation text."""
        n_batches = self.settings.evaluate_batches or (8 if limit else None)
        batches = corpus.batches_to_look_at(self.plan, tokens, self.lm.tokenizer, n_batches, self.world)
        with torch.compiler.set_stance("force_eager"):  # compiling a second, gradient-free block would cost more
            return {f"{split}_{name}": value for name, value in self.trainer.measure(batches).items()}

    def sample(self) -> None:
        """Let the model speak."""
        lm = snapshot(self.lm) if self.trainer.sharded else self.lm
        if not self.world.is_first:
            return
        lm.model.eval()
        with torch.compiler.set_stance("force_eager"):
            new = lm.generate(
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
            raise UsageError(f"{setting('sample_prompt')} {self.prompt!r}: {error}") from None

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
        """Have a checkpoint written. Returns where it will be."""
        tensors, state = self.trainer.state()
        decided = Decisions(
            self.trainer.device.type, torch.get_num_threads(), self.compiled, self.parallel, self.world.size
        )
        own = self.tokens.parent == self.folder.path  # or a prepared folder elsewhere
        record = {
            "format": FORMAT, "step": self.trainer.step, "trainer": state, "seconds": self.seconds,
            "best": self.best if math.isfinite(self.best) else None,
            "origin": self.origin, "tokens": self.tokens.name if own else "tokens", "losses": list(self.spikes.losses),
            "recent": [asdict(result) for result in self.recent],  # since the last look, which will average them
            "total_steps": self.trainer.total_steps, "data": list(self.plan.data),
            "settings": to_table(self.plan.settings), "model": to_table(self.plan.model),
            "decisions": msgspec.to_builtins(decided),
        }  # fmt: skip
        lm, tensors, keep = snapshot(self.lm), copied(tensors), self.settings.keep
        self.write(lambda: self.folder.save_checkpoint(lm, tensors, record, keep))
        self.failures = 0
        return self.folder.checkpoint_at(self.trainer.step)

    def interrupted(self) -> None:
        """Save, and say how to go on."""
        saved = self.save()
        self.flush()
        if not self.world.is_first:  # one line is enough
            raise SystemExit(InterruptedRunError.exit_code)
        raise InterruptedRunError(
            f"stopped at step {self.trainer.step} of {self.trainer.total_steps}, saved in {saved}; "
            f"go on with: luthier train --out {shlex.quote(str(self.folder.path))} --resume"
        )


def newest(folder: RunFolder, world: World) -> tuple[Path, dict[str, Tensor], CheckpointRecord]:
    """The newest whole checkpoint, which the first process looks for: it puts damaged ones aside."""
    if world.is_first:
        found = folder.newest_checkpoint()
        world.broadcast(found[0])
        return found
    path = world.broadcast(None)
    return (path, *read_checkpoint(path))
