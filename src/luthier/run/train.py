"""Starting and resuming a training run: folder, text, model and processes."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from luthier.architectures import registry
from luthier.errors import LuthierError, setting
from luthier.language_model import LanguageModel, load
from luthier.run import corpus, cost, launch, length, resumed_text, resuming
from luthier.run.callbacks.checkpoint import newest
from luthier.run.callbacks.tensorboard import tensorboard_writer
from luthier.run.changes import changed_plan
from luthier.run.checkpoint_record import newest_record
from luthier.run.folder import RunFolder
from luthier.run.idle_settings import say_idle, say_vocabulary
from luthier.run.plan import Plan, edits, read_run, resolve, with_vocabulary, write_recipe
from luthier.run.starting_weights import check_same_tokenizer, open_source, started, with_config
from luthier.run.token_splits import TokenSplits
from luthier.run.training_run import Run
from luthier.terminal.printing import mute, say, warn
from luthier.terminal.streams import outliving_terminal
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.load import load as load_tokenizer
from luthier.training.distributed import World, process_group
from luthier.training.machine import choose_device, keep_freed_memory


@outliving_terminal()
def start(plan: Plan, out: Path, source: LanguageModel | None = None) -> Path:
    """Train what the plan says into a new folder. Returns the folder.

    source: the model of the plan's `from_model`, where it is open already.
    """
    folder = RunFolder(out)
    device = choose_device(plan.settings.device)
    registry.build_on_meta(plan.model)  # a head that does not divide is better known before the text is read
    if plan.settings.tensorboard:
        tensorboard_writer()
    if plan.settings.from_model and source is None:
        source = open_source(plan.settings.from_model)
    with process_group(device) as world:
        prepare_process(plan, world)
        this = launch.this_launch(world)
        if world.broadcast(launch.may_go_on(folder, this)):
            with folder.locked() if world.is_first else nullcontext():
                plan = resolve(recipe=read_run(out), where=str(folder.recipe))
                go_on(plan, folder, anyway=False, world=world).train()
        else:
            with launch.taken(folder, this) if world.is_first else nullcontext():
                begin(plan, folder, device, world, source).train()
    return out


def begin(plan: Plan, folder: RunFolder, device: torch.device, world: World, source: LanguageModel | None) -> Run:
    """Prepare a new run: its text, its model, its recipe. source: the model to go on with, if any."""
    with launch.discarded_on_error(folder) if world.is_first else nullcontext():
        if world.is_first:
            given = None if source is None else source.tokenizer
            vocab_size = plan.model.vocab_size
            tokenizer, tokens = corpus.prepare_tokens(plan.data, plan.settings, vocab_size, folder.tokens, given)
            if source is not None and tokens != folder.tokens:
                check_same_tokenizer(tokenizer, source, tokens)
        world.barrier()
        if not world.is_first:
            tokens = corpus.prepared_folder(plan.data) or folder.tokens
            tokenizer = load_tokenizer(tokens)
        if world.is_first:
            say_idle(plan, prepared=tokens != folder.tokens, processes=world.size)
            say_vocabulary(plan, tokenizer.vocab_size)
        plan = with_vocabulary(plan, tokenizer.vocab_size)
        for warning in cost.check(plan, folder, device):
            warn(warning)
        plan = with_some_length(plan, tokens, tokenizer, device, world)
        run = Run(plan, folder, first_weights(plan, tokenizer, device, source), tokens, world)
        run.plan, run.compiled = resuming.decide(run.trainer, plan, None, set())
        if world.is_first:
            write_recipe(folder.path, run.plan)
        return run


def first_weights(
    plan: Plan, tokenizer: Tokenizer, device: torch.device, source: LanguageModel | None
) -> LanguageModel:
    """The model that the run begins with: new weights, or those of a source, which are said."""
    if source is None:
        return LanguageModel(registry.build(plan.model, seed=plan.settings.seed, device=device), tokenizer, plan.model)
    say(
        f"beginning with the weights of {plan.settings.from_model}: learning rate up to "
        f"{plan.settings.learning_rate:g}, dropout {plan.model.dropout:g}, context {plan.model.context_length:,} of "
        f"{source.config.context_length:,} tokens"
    )
    return started(source, plan.model, tokenizer, device)


def with_some_length(plan: Plan, tokens: Path, tokenizer: Tokenizer, device: torch.device, world: World) -> Plan:
    """The plan with a length: chosen if it has none. With several processes, which would time each other, one epoch."""
    if not length.is_open(plan.settings):
        return plan
    chosen = None
    if world.size == 1:
        text = TokenSplits(tokens, tokenizer.pad_id or 0)
        amount = length.amount_of(plan.settings, plan.model.context_length, text)
        chosen = length.choose_length(plan, amount, device)
    say(
        f"one pass over the text, as neither {setting('steps')} nor {setting('epochs')} is given"
        if chosen is None
        else chosen.text()
    )
    return length.with_length(plan, chosen)


@outliving_terminal()
def resume(
    out: Path, options: dict[str, Any], model: dict[str, Any], data: tuple[str, ...], *, anyway: bool = False
) -> Path:
    """Resume a run from its last checkpoint, on any number of processes.

    options, model: settings to change. data: the text, if it is named. anyway: allow changes of changes.ANYWAY.
    """
    folder = RunFolder(out)
    before = resolve(recipe=read_run(out), where=str(folder.recipe))
    plan = changed_plan(before, options, model, anyway=anyway)
    with process_group(resumed_device(plan, out)) as world:
        prepare_process(plan, world)
        with folder.locked() if world.is_first else nullcontext():
            go_on(plan, folder, anyway, world, data).train()
    return out


def resumed_device(plan: Plan, out: Path) -> torch.device:
    """The device that is set, or the one that the run was trained on; warns if that is not available."""
    record = newest_record(out)
    chosen = choose_device(plan.settings.device)
    if plan.settings.device != "auto" or record is None or record.decisions is None:
        return chosen
    was = record.decisions.device
    try:
        return choose_device(was)
    except LuthierError:
        warn(f"the run was trained on {was}, which is not available here: continuing on {chosen.type}")
        return chosen


def go_on(plan: Plan, folder: RunFolder, anyway: bool, world: World, data: tuple[str, ...] = ()) -> Run:
    """The run of the newest whole checkpoint, with the settings of `plan`. data: the text, if it is named."""
    checkpoint, tensors, record = newest(folder, world)
    before = resolve(recipe=record.recipe or read_run(folder.path), where=str(checkpoint))
    lm = load(checkpoint, device=resumed_device(plan, folder.path))
    lm = with_config(lm, replace(lm.config, dropout=plan.model.dropout))
    if world.is_first:
        mention_edits(folder, before)
    chosen = resumed_text.choose(before, data, folder, record, lm.tokenizer, anyway) if world.is_first else None
    tokens, plan = world.broadcast(chosen if chosen is None else (chosen[0], replace(plan, data=chosen[1])))
    if plan.settings.threads == 0 and world.size == 1 and record.decisions is not None:
        resuming.take_threads(record.decisions.threads)
    run = Run(plan, folder, lm, tokens, world, before, record.decisions)
    run.restore(tensors, record)
    if run.trainer.step >= run.trainer.total_steps:
        raise LuthierError(
            f"{folder.path} is finished: it is at step {run.trainer.step} of {run.trainer.total_steps}; "
            f"to train longer, give more {setting('steps')} or {setting('epochs')}"
        )
    changed = resuming.changed_names(before, plan)
    resuming.continue_schedule(run.trainer, before, run.total_before(record), changed)
    run.plan, run.compiled = resuming.decide(run.trainer, plan, record.decisions, changed)
    say(f"resuming from {checkpoint}")
    if world.is_first:
        write_recipe(folder.path, run.plan)
        folder.forget_tokens(keep=tokens)
    return run


def mention_edits(folder: RunFolder, before: Plan) -> None:
    """Report edits of run.toml, and keep the edited file aside: the checkpoint's settings are used."""
    edited = edits(folder.path, before)
    if not edited:
        return
    kept = folder.recipe.with_name("run.edited.toml")
    with suppress(OSError):
        folder.recipe.replace(kept)
    warn(
        f"{folder.recipe} is not what the checkpoint was trained with ({'; '.join(edited)}): the checkpoint's settings "
        f"are taken, and the file is kept as {kept.name}. To change a setting, give it as an option"
    )


def prepare_process(plan: Plan, world: World) -> None:
    """Set this process's threads and memory allocation, and whether it prints."""
    if plan.settings.threads:
        torch.set_num_threads(plan.settings.threads)
    keep_freed_memory()
    mute(not world.is_first)
