"""Start a training run, or go on with one: the folder, the text, the model, and several processes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.errors import LuthierError
from luthier.language_model import LanguageModel, load
from luthier.run import corpus, cost, launch, length, speed
from luthier.run.folder import RunFolder
from luthier.run.idle_settings import say_idle, say_vocabulary
from luthier.run.plan import Plan, check_resumable, read_run, resolve, with_vocabulary
from luthier.run.training_run import Run, newest
from luthier.run.watch import tensorboard_writer
from luthier.terminal.printing import mute, say, warn
from luthier.terminal.streams import outliving_terminal
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.load import load as load_tokenizer
from luthier.training.distributed import World, joined
from luthier.training.machine import choose_device, keep_freed_memory


@outliving_terminal()
def start(plan: Plan, out: Path) -> Path:
    """Train what the plan says into a new folder. Returns the folder."""
    folder = RunFolder(out)
    device = choose_device(plan.settings.device)
    registry.build_on_meta(plan.model)  # a head that does not divide is better known before the text is read
    if plan.settings.tensorboard:
        tensorboard_writer()
    with joined(device) as world:
        prepare_process(plan, world)
        this = launch.this_launch(world)
        if world.agree(launch.may_go_on(folder, this)):
            with folder.locked() if world.is_first else nullcontext():
                plan = resolve(recipe=read_run(out), where=str(folder.recipe))
                go_on(plan, folder, anyway=False, world=world).go()
        else:
            with launch.taken(folder, this) if world.is_first else nullcontext():
                begin(plan, folder, device, world).go()
    return out


def begin(plan: Plan, folder: RunFolder, device: torch.device, world: World) -> Run:
    """Prepare a new run: its text, its model, its recipe."""
    with launch.discarded_on_error(folder) if world.is_first else nullcontext():
        if world.is_first:
            tokenizer, tokens = corpus.prepare_tokens(plan, folder.tokens)
        world.wait()
        if not world.is_first:
            tokens = corpus.prepared_folder(plan) or folder.tokens
            tokenizer = load_tokenizer(tokens)
        if world.is_first:
            say_idle(plan, prepared=tokens != folder.tokens, processes=world.size)
            say_vocabulary(plan, tokenizer.vocab_size)
        plan = with_vocabulary(plan, tokenizer.vocab_size)
        for warning in cost.check(plan, folder, device):
            warn(warning)
        plan = with_some_length(plan, tokens, tokenizer, device, world)
        model = registry.build(plan.model, seed=plan.settings.seed, device=device)
        run = Run(plan, folder, LanguageModel(model, tokenizer, plan.model), tokens, world)
        run.plan = replace(plan, settings=speed.choose_precision(run.trainer, plan.settings))
        if world.is_first:
            folder.recipe.write_text(run.plan.toml(), encoding="utf-8")
        return run


def with_some_length(plan: Plan, tokens: Path, tokenizer: Tokenizer, device: torch.device, world: World) -> Plan:
    """The plan, with a length chosen and said when it has none. Several processes would time each other: one epoch."""
    if not length.is_open(plan.settings):
        return plan
    chosen = None
    if world.size == 1:
        train, validation = corpus.open_splits(tokens)
        amount = length.amount_of(plan, corpus.make_batches(plan, train, tokenizer), train, validation)
        chosen = length.choose_length(plan, amount, device)
    say("one pass over the text, as neither --steps nor --epochs is given" if chosen is None else chosen.text())
    return length.with_length(plan, chosen)


@outliving_terminal()
def resume(
    out: Path, options: dict[str, Any], model: dict[str, Any], data: tuple[str, ...], *, anyway: bool = False
) -> Path:
    """Go on with a run where its last checkpoint stands, on as many processes as there are now.

    options: those that may change (plan.MAY_CHANGE). anyway: let other settings of training, and the tokens, change.
    """
    folder = RunFolder(out)
    before = resolve(recipe=read_run(out), where=str(folder.recipe))
    plan = check_resumable(options, model, data, before, anyway=anyway)
    with joined(choose_device(plan.settings.device)) as world:
        prepare_process(plan, world)
        with folder.locked() if world.is_first else nullcontext():
            go_on(plan, folder, anyway, world).go()
    return out


def go_on(plan: Plan, folder: RunFolder, anyway: bool, world: World) -> Run:
    """A run as its newest whole checkpoint holds it."""
    checkpoint, tensors, record = newest(folder, world)
    lm = load(checkpoint, device=choose_device(plan.settings.device))
    run = Run(plan, folder, lm, corpus.prepared_folder(plan) or folder.tokens, world)
    before = record["origin"]
    changed = [name for name in before.keys() | run.origin.keys() if before.get(name) != run.origin.get(name)]
    if changed:
        if not anyway:
            listed = "; ".join(f"{name} was {before.get(name)}, is {run.origin.get(name)}" for name in sorted(changed))
            raise LuthierError(
                f"{run.tokens} has changed since the run was begun ({listed}): "
                "put it back, or go on with --anyway, in new batches"
            )
        record["trainer"]["batches"] = run.trainer.batches.state()
    run.restore(tensors, record)
    if run.trainer.step >= run.trainer.total_steps:
        raise LuthierError(
            f"{folder.path} is at step {run.trainer.step}, where it was to end: give more --steps or --epochs"
        )
    say(f"going on from {checkpoint}")
    if world.is_first:
        folder.recipe.write_text(plan.toml(), encoding="utf-8")
    return run


def prepare_process(plan: Plan, world: World) -> None:
    """Its threads, its memory, and whether it prints."""
    if plan.settings.threads:
        torch.set_num_threads(plan.settings.threads)
    keep_freed_memory()
    mute(not world.is_first)
