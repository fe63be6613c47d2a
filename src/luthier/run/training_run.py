"""A training run: a trainer, and callbacks around its steps, in a folder."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from luthier.config import to_table
from luthier.data.batches import BatchSource
from luthier.language_model import LanguageModel, load
from luthier.memory import total_memory
from luthier.run import resuming, speed
from luthier.run.callbacks.checkpoint import newest
from luthier.run.checkpoint_record import FORMAT, CheckpointRecord, Decisions
from luthier.run.closing import closing_text, headline
from luthier.run.folder import RunFolder
from luthier.run.interrupt import InterruptedRunError, finish_on_signal, how_to_resume
from luthier.run.last_pages import write_pages
from luthier.run.plan import Plan, resolve
from luthier.run.record import evaluations
from luthier.run.run_callbacks import RunCallbacks
from luthier.run.token_splits import TokenSplits, steps_in_all
from luthier.terminal.printing import say, warn
from luthier.training.callback import StepUndoneError
from luthier.training.distributed import ALONE, World, check, choose_strategy, distribute_like
from luthier.training.loop import NonFiniteError, Trainer


class Run:
    """A training run in progress."""

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
        """tokens: folder of token shards. before, decided: plan and decisions of the run that is resumed."""
        self.plan, self.folder, self.lm, self.tokens, self.world = plan, folder, lm, tokens, world
        self.before, settings = before or plan, plan.settings
        self.text = TokenSplits(tokens, lm.tokenizer.pad_id or 0, world)
        batches = self.batches_of(plan)
        self.parallel = choose_parallel(settings.parallel, lm, world, decided)
        check(world, settings.batch_size, settings.optimizer, self.parallel)
        parallel_settings = replace(settings, parallel=self.parallel)
        self.trainer = Trainer(lm.model, batches, parallel_settings, steps_in_all(settings, batches), world=world)
        self.compiled = False
        self.callbacks = RunCallbacks(folder, settings, lm, self.text, self.trainer, self.record, self.go_back)

    def train(self) -> None:
        """Train to the end, or until Ctrl-C."""
        trainer, callbacks = self.trainer, self.callbacks
        trainer.dtype = torch.bfloat16 if self.plan.settings.precision == "bfloat16" else torch.float32
        say(headline(self.plan, trainer, len(self.text.train), callbacks.statistics.peak))
        self.compile()
        with closing(callbacks), finish_on_signal() as stop:
            callbacks.begin()
            while trainer.step < trainer.total_steps:
                self.one_step()
                if self.world.any(bool(stop)) and trainer.step < trainer.total_steps:
                    self.interrupt()
            callbacks.end()
        if self.world.is_first:
            self.finish()

    def compile(self) -> None:
        """Compile, if that is decided and possible; checkpoints record the outcome."""
        if self.compiled and not speed.compile_blocks(self.trainer):
            self.compiled = False
            if self.trainer.step:
                warn("the run was compiled until now: sums will be rounded differently")

    def one_step(self) -> None:
        """Train one step. Callbacks act after it unless it was a bad one."""
        self.callbacks.before_step()
        try:
            result = self.trainer.train_step()
        except NonFiniteError as error:
            self.callbacks.recover.failed_step(error)
            return
        with suppress(StepUndoneError):
            self.callbacks.after_step(result)

    def interrupt(self) -> None:
        """Save, and raise an error that says how to go on."""
        saved = self.callbacks.checkpoint.save()
        self.callbacks.writer.flush()
        if not self.world.is_first:  # one line is enough
            raise SystemExit(InterruptedRunError.exit_code)
        raise InterruptedRunError(
            f"stopped at step {self.trainer.step} of {self.trainer.total_steps}, saved in {saved}; "
            f"resume with: {how_to_resume(self.folder.path)}"
        )

    def finish(self) -> None:
        """Write the picture and the report, and print the result of the run."""
        measured = evaluations(self.folder.metrics)
        failed = write_pages(self.folder, measured)
        prompt, seconds = self.callbacks.sample.prompt, self.callbacks.clock.seconds
        say(closing_text(self.folder, measured, seconds, prompt, failed))

    def record(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint holds besides weights: tensors, and the fields of CheckpointRecord."""
        trainer = self.trainer
        tensors, state = trainer.state()
        decided = Decisions(trainer.device.type, torch.get_num_threads(), self.compiled, self.parallel, self.world.size)
        own = self.tokens.parent == self.folder.path  # or a prepared folder elsewhere
        return tensors, {
            "format": FORMAT, "step": trainer.step, "total_steps": trainer.total_steps, "trainer": state,
            "origin": self.text.origin, "tokens": self.tokens.name if own else "tokens", "data": list(self.plan.data),
            "settings": to_table(self.plan.settings), "model": to_table(self.plan.model),
            "decisions": msgspec.to_builtins(decided), **self.callbacks.state(),
        }  # fmt: skip

    def restore(self, tensors: dict[str, Tensor], record: CheckpointRecord) -> None:
        """Restore the state of a checkpoint, whose weights are loaded already."""
        self.restore_trainer(tensors, record)
        state = msgspec.to_builtins(record)
        if record.origin != self.text.origin:
            state["best"] = None  # a loss on another text cannot be compared
        self.callbacks.restore(state)

    def go_back(self) -> Path:
        """Restore the newest checkpoint, but not the position in data and schedule. Returns its path."""
        self.callbacks.writer.flush()
        self.world.barrier()
        trainer = self.trainer
        place, anchor = trainer.batches.state(), trainer.anchor
        checkpoint, tensors, record = newest(self.folder, self.world)
        weights = load(checkpoint, device=trainer.device).model.state_dict()
        for name, weight in self.lm.model.state_dict().items():
            weight.copy_(distribute_like(weights[name], weight))
        self.restore_trainer(tensors, record)
        trainer.batches.restore(place)
        trainer.anchor = anchor
        self.callbacks.go_back(msgspec.to_builtins(record))
        return checkpoint

    def restore_trainer(self, tensors: dict[str, Tensor], record: CheckpointRecord) -> None:
        """Restore the trainer, adapted to settings that have changed since the checkpoint."""
        before = resolve(recipe=record.recipe) if record.recipe else self.before
        changed = resuming.changed_names(before, self.plan) - {"data"}
        batches_before = partial(self.batches_of, before) if record.origin == self.text.origin else None
        state = msgspec.to_builtins(record.trainer)
        self.trainer.restore(*resuming.adapted(tensors, state, changed, self.trainer, batches_before))

    def batches_of(self, plan: Plan) -> BatchSource:
        """Training batches as a plan cuts them, from the first on."""
        return self.text.training_batches(plan.settings, plan.model.context_length)

    def total_before(self, record: CheckpointRecord) -> int:
        """Length of the run in steps, as it was when its checkpoint was saved."""
        return record.total_steps or steps_in_all(self.before.settings, self.batches_of(self.before))


def choose_parallel(asked: str, lm: LanguageModel, world: World, decided: Decisions | None) -> Literal["ddp", "fsdp"]:
    """DDP or FSDP: as asked, as the run did with as many processes, or by the memory of the devices."""
    if decided is not None and asked == "auto" and decided.processes == world.size:
        return decided.parallel
    parameters = sum(weight.numel() for weight in lm.model.parameters())
    return choose_strategy(asked, parameters, total_memory(lm.device, world.local_size))
