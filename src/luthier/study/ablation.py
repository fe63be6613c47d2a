"""An ablation study of architectures: variants trained alike, with one budget and several seeds, and compared.

With one seed all variants see the same batches in the same order and are evaluated on the same text, so that a variant
is compared with the base seed by seed: the error of a gain is smaller than the spread of the losses.

A study is a folder:
    study.json                  what was asked, and the variants: what --resume goes on with
    tokens/                     the text as ids, and the tokenizer
    runs/VARIANT-seed1/         a run's folder for each training, which opens as a model
    report.html report.json     the page, and its numbers
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luthier.architectures import registry
from luthier.config import from_table, to_table
from luthier.errors import LuthierError, UsageError, in_python, setting
from luthier.files.atomic_file import PAGE, check_writable, write_file
from luthier.files.json_files import read_json
from luthier.files.unfinished import remove_folder
from luthier.run import corpus, train
from luthier.run.folder import RunFolder
from luthier.run.interrupt import InterruptedRunError
from luthier.run.plan import Plan, resolve
from luthier.run.record import evaluations
from luthier.run.request import Data, names_of
from luthier.study import variants as kinds
from luthier.study.ablation_page import write
from luthier.study.results import DATA, Evaluation, Training
from luthier.study.variants import Variant
from luthier.terminal.printing import quiet, say, warn
from luthier.terminal.streams import outliving_terminal
from luthier.training.settings import Settings

Device = Literal["auto", "cpu", "cuda", "mps"]
SIZES = ("nano", "micro", "mini")
BUDGETS = ("parameters", "tokens", "flops")
RECORD = "study.json"
EVALUATIONS = 5  # of the validation loss, in a training
NEVER = 10**9  # steps between samples: none


@dataclass(frozen=True)
class Study:
    """What a study is asked to be."""

    data: tuple[str, ...]
    title: str
    size: str
    budget: str
    seeds: int
    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    device: Device
    threads: int
    eval_batches: int
    variants: tuple[Variant, ...] = ()

    def steps_of(self, variant: Variant) -> int:
        """The steps of a variant: with a budget in FLOPs, as many as cost what the base's cost."""
        if self.budget != "flops":
            return self.steps
        return max(1, round(self.steps * kinds.cost(self.variants[0].config) / kinds.cost(variant.config)))

    def settings(self, variant: Variant, seed: int, rate: float) -> Settings:
        """The settings of a training."""
        steps = self.steps_of(variant)
        return Settings(
            preset=variant.preset, batch_size=self.batch_size, learning_rate=rate, steps=steps, seed=seed,
            device=self.device, threads=self.threads, eval_interval=max(1, steps // EVALUATIONS), save_interval=steps
            if steps < 4 * EVALUATIONS else 0, sample_interval=NEVER, eval_batches=self.eval_batches,
            keep_checkpoints=1, precision="float32", compile="no",
        )  # fmt: skip

    def rates(self, variant: Variant) -> tuple[float, ...]:
        """The learning rates that are tried for a variant, with the first seed."""
        return self.learning_rates if variant.learning_rate is None else (variant.learning_rate,)


def ablate(
    data: Data = (),
    *,
    base: str = "gpt2",
    to: str | Sequence[str] = (),
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    variants: str | os.PathLike[str] | None = None,
    budget: str = "parameters",
    size: str = "nano",
    seeds: int = 3,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    learning_rates: Sequence[float] = (),
    model: Mapping[str, Any] | None = None,
    device: Device = "auto",
    threads: int = 0,
    eval_batches: int = 16,
    out: str | os.PathLike[str] = "ablation",
    resume: bool = False,
    page: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = say,
) -> list[Training]:
    """Train variants of an architecture alike, compare them over seeds, and write a page, as `luthier ablate` does.

        >>> tiny = {"dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 300}
        >>> once = {"seeds": 1, "steps": 1, "batch_size": 2}
        >>> trainings = luthier.ablate("book.txt", add=["rope"], model=tiny, out="study", **once)
        >>> [training.variant for training in trainings]
        ['gpt2', '+ rope']

    base: a family or preset. to: families; from the base to each of them one part changes at a time. add, remove: parts
    of the base to add or take away, a variant each. variants: a TOML file instead, with a table for each variant.
    budget: what is the same for all variants: "parameters" (and tokens), "tokens", or "flops" of the training. size: of
    the presets, "nano", "micro" or "mini". learning_rates: tried for each variant with the first seed; the one with the
    lowest validation loss is taken. model: fields of the base to change. out: the study's folder. resume: go on with
    the study in `out`; nothing else is needed. page: a further place for the page and its data. report: gets a line
    after each training.

    Returns the trainings, in the order of the variants for one seed after another. Ctrl-C ends the step and saves.
    Raises a UsageError for a setting that is wrong, and a LuthierError where a text or a training fails.
    """
    folder, beside = Path(out), None if page is None else Path(page)
    if beside is not None:
        check_writable(beside, begins=PAGE)
        check_writable(beside.with_suffix(".json"), begins=DATA)
    if resume:
        study = read_study(folder)
    else:
        if (folder / RECORD).exists():
            raise UsageError(
                f"{folder} holds a study: go on with it ({setting('resume', True)}), or name another folder"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is there and no study: name another folder with {setting('out')}")
        names = (to,) if isinstance(to, str) else tuple(to)
        rates = tuple(learning_rates) or (learning_rate,)
        study = Study(names_of(data), "", size, budget, seeds, steps, batch_size, rates, device, threads, eval_batches)
        study = with_variants(study, base, names, add, remove, variants, dict(model or {}))
        prepare(study, folder)
        study = read_study(folder)
    try:
        return carry_out(study, folder, beside, report)
    except InterruptedRunError:
        command = f"luthier ablate --out {shlex.quote(str(folder))} --resume"
        what = f"luthier.ablate(out={str(folder)!r}, resume=True)" if in_python() else command
        raise InterruptedRunError(f"stopped and saved; go on with: {what}") from None


def with_variants(
    study: Study,
    base: str,
    to: Sequence[str],
    add: Sequence[str],
    remove: Sequence[str],
    file: str | os.PathLike[str] | None,
    changes: dict[str, Any],
) -> Study:
    """The study with its variants, before their sizes are fitted. Raises a UsageError for what is out of range."""
    for name, value, known in (("size", study.size, SIZES), ("budget", study.budget, BUDGETS)):
        if value not in known:
            raise UsageError(f"{setting(name)} is {value}: there are {', '.join(known)}")
    if study.seeds < 1 or study.steps < 1:
        raise UsageError(f"{setting('seeds')} is {study.seeds} and {setting('steps')} {study.steps}: at least 1 each")
    if file is not None and (to or add or remove):
        raise UsageError(f"{setting('variants')} names all variants: leave {setting('to')}, add and remove out")
    if file is not None:
        found, title = kinds.variants_of_file(Path(file), study.size, changes), f"Variants of {Path(file).stem}"
    else:
        config = kinds.base_config(base, study.size, changes)
        found = [Variant(base, "composed-nano", config)]
        for each in to:
            found += kinds.way(config, base, each, study.size)
        found += [Variant(f"+ {each}", "composed-nano", kinds.changed(config, [each], [])) for each in add]
        found += [Variant(f"- {each}", "composed-nano", kinds.changed(config, [], [each])) for each in remove]
        title = f"From {base} to {' and '.join(to)}, part by part" if to else f"Changes to {base}"
    if len(found) < 2:
        raise UsageError(f"one variant is nothing to compare: give {setting('to')}, add, remove or variants")
    study = replace(study, title=title, variants=tuple(found))
    for rate in {*study.learning_rates, *(each.learning_rate for each in found if each.learning_rate is not None)}:
        study.settings(found[0], 1, rate)  # raises for what is out of range
    return study


def prepare(study: Study, folder: Path) -> None:
    """Encode the text, fit the variants to the budget, and write study.json."""
    first = study.variants[0]
    plan = resolve(study.data, options={"preset": first.preset, "batch_size": study.batch_size, "steps": study.steps})
    for variant in study.variants:
        registry.build_on_meta(variant.config)  # what does not go together is better known before the text is read
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LuthierError(f"{folder} cannot be written: {error.strerror}") from None
    tokens = folder / "tokens"
    vocabulary: int = first.config.vocab_size
    try:
        tokenizer, found = corpus.prepare_tokens(plan.data, plan.settings, vocabulary, tokens)
        if found != tokens:
            study = replace(study, data=tuple(str(Path(each).resolve()) for each in plan.data))
        size = tokenizer.vocab_size
        ready: Sequence[Variant] = [
            replace(each, config=replace(each.config, vocab_size=size)) for each in study.variants
        ]
        if study.budget == "parameters":
            parameters = registry.count_parameters(ready[0].config)[0]
            ready = [ready[0], *(kinds.fitted(each, parameters) for each in ready[1:])]
        study = replace(study, data=plan.data, variants=tuple(kinds.without_repetitions(ready)))
    except BaseException:
        remove_folder(folder)
        raise
    if study.seeds == 1:
        warn(f"with one seed nothing can be said of differences: {setting('seeds')} 3 or more gives error bars")
    table = asdict(replace(study, variants=()))
    table["variants"] = [
        {**asdict(each), "family": registry.name_of(each.config), "config": to_table(each.config)}
        for each in study.variants
    ]
    write_file(folder / RECORD, json.dumps({"study": table}, indent=1) + "\n")


def read_study(folder: Path) -> Study:
    """The study of a folder. Raises a LuthierError where there is none."""
    if not (folder / RECORD).is_file():
        raise LuthierError(f"{folder} is not a study that can be resumed: it has no {RECORD}")
    try:
        table = dict(read_json(folder / RECORD)["study"])
        found = []
        for each in table.pop("variants"):
            family = registry.FAMILIES[each.pop("family")]
            found.append(Variant(**{**each, "config": from_table(family.config, each["config"], RECORD)}))
        data, rates = tuple(table.pop("data")), tuple(table.pop("learning_rates"))
        return Study(**table, data=data, learning_rates=rates, variants=tuple(found))
    except (KeyError, TypeError, ValueError) as error:
        raise LuthierError(f"{folder / RECORD} is damaged ({error}): begin the study again in another folder") from None


@outliving_terminal()
def carry_out(study: Study, folder: Path, beside: Path | None, report: Callable[[str], None]) -> list[Training]:
    """Train what is not trained yet: every variant with one seed, then with the next."""
    trainings: list[Training] = []
    chosen: dict[str, float] = {}
    planned = len(study.variants) * study.seeds
    for seed in range(1, study.seeds + 1):  # all of one seed first: an unfinished page is worth most so
        for variant in study.variants:
            rates = study.rates(variant) if seed == 1 else (chosen[variant.name],)
            tried = [train_variant(study, variant, seed, rate, folder) for rate in rates]
            best = min(tried, key=lambda training: training.loss)
            chosen[variant.name] = best.learning_rate
            trainings.append(best)
            place = f"{len(trainings):>{len(str(planned))}}/{planned}"
            rate = f"  learning rate {best.learning_rate:g}" if len(study.learning_rates) > 1 else ""
            report(f"{place}  {variant.name:<24} seed {seed}  loss {best.loss:.4f}{rate}")
            for page in (folder / "report.html", *(() if beside is None else (beside,))):
                write(trainings, study, page)
    return trainings


def run_name(study: Study, variant: Variant, seed: int, rate: float) -> str:
    """The name of a training's folder."""
    number = [each.name for each in study.variants].index(variant.name)
    plain = re.sub(r"[^a-z0-9.]+", "-", variant.name.lower()).strip("-")
    return f"{number:02d}-{plain}-seed{seed}" + (f"-lr{rate:g}" if len(study.rates(variant)) > 1 else "")


def train_variant(study: Study, variant: Variant, seed: int, rate: float, folder: Path) -> Training:
    """Train a variant, go on with its run, or read its result where it is finished."""
    run = folder / "runs" / run_name(study, variant, seed, rate)
    settings = study.settings(variant, seed, rate)
    tokens = folder / "tokens" if (folder / "tokens").is_dir() else Path(study.data[0])
    last = evaluations(RunFolder(run).metrics) if run.is_dir() else []
    if not last or last[-1]["step"] < settings.steps:
        begun = RunFolder(run).whole_checkpoints() if run.is_dir() else []
        with quiet():
            if begun:
                train.resume(run, {}, {}, ())
            else:  # what there is of it has no checkpoint
                remove_folder(run)
                train.start(Plan((str(tokens),), settings, variant.config), run)
    found = evaluations(RunFolder(run).metrics)
    if not found or "validation_loss" not in found[-1]:
        raise LuthierError(f"{run} has no validation loss: prepare the text with validation text")
    model = registry.build_on_meta(variant.config)
    total, active = registry.count_parameters(variant.config)
    cache = sum(cache_bytes(block.attention) for block in model.layers)
    speeds = sorted(each["tokens_per_second"] for each in found if each.get("tokens_per_second"))
    curve = [Evaluation(each["step"], each["tokens"], each["validation_loss"]) for each in found]
    flops = float(kinds.cost(variant.config) * found[-1]["tokens"])
    speed = speeds[len(speeds) // 2] if speeds else 0.0
    return Training(variant.name, seed, rate, total, active, flops, cache, speed, curve)


def cache_bytes(attention: Any) -> int:
    """Bytes of a token in the cache of a layer, in float32."""
    rank = getattr(attention, "rank", None)
    if rank is not None:
        return int(4 * (rank + attention.rope_dim))
    return int(4 * attention.n_kv_heads * (attention.head_dim + attention.value_dim))
