"""How long it takes to learn: seconds to a validation loss on tiny Shakespeare, by characters.

    python benchmarks/time_to_loss.py tiny-shakespeare --json time_to_loss.json
    python benchmarks/time_to_loss.py shakespeare.txt --minutes 30

The first: Luthier's recipe `shakespeare` beside nanoGPT's for a CPU (the plain float32 loop below). Both get the same
vocabulary, the first nine tenths of the text to train on, and the last tenth, all of it, to be judged by. The second:
what the recipe `shakespeare-long` reaches in so many minutes.

Counted: building the model, compiling where a recipe says so, and every training step with its batch. Not counted:
reading and encoding the text, importing libraries, and the looks at the validation loss, for both alike.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from luthier.architectures import registry
from luthier.data.batches import Batch, RandomWindows, evaluation_batches
from luthier.data.shards import TokenShards
from luthier.data.sources import Texts
from luthier.model.loss import IGNORE_INDEX
from luthier.run.plan import Plan, read_recipe, resolve, with_vocabulary
from luthier.tokenizers.core.train import characters
from luthier.training.loop import Trainer
from luthier.training.machine import choose_device, has_fast_bfloat16, keep_freed_memory

CPU = torch.device("cpu")
LOOKS = 20  # at the validation loss, spread over a run


@dataclass(frozen=True)
class Text:
    """Ids of the text, cut in two."""

    train: TokenShards
    validation: TokenShards
    vocab_size: int


def read_text(source: str, largest: int | None) -> Text:
    """A path or a corpus by name, as ids of its characters. The last tenth is for validation."""
    documents = ["".join(Texts((source,)).documents())[:largest]]
    tokenizer = characters(documents)
    ids = np.asarray(tokenizer.encode(documents[0]), np.uint16)
    end = int(0.9 * len(ids))
    return Text(
        TokenShards([ids[:end]], name="train"), TokenShards([ids[end:]], name="validation"), tokenizer.vocab_size
    )


class Clock:
    """Counts the seconds of training: it stands still while the validation loss is looked at."""

    def __init__(self) -> None:
        self.before, self.since = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.since

    def look(self, measure: Callable[[], float]) -> float:
        """Call it, uncounted."""
        self.before = self.seconds
        loss = measure()
        self.since = time.perf_counter()
        return loss


@dataclass
class Course:
    """What a run went through: (step, seconds, validation loss) at each look."""

    name: str
    looks: list[tuple[int, float, float]]

    def seconds_to(self, target: float) -> float | None:
        """When the target was first seen to be reached; None: never."""
        return next((seconds for _, seconds, loss in self.looks if loss <= target), None)

    @property
    def best(self) -> float:
        return min(loss for *_, loss in self.looks)


def due(step: int, total: int) -> bool:
    """Whether to look after this step."""
    return step == total or step % max(1, total // LOOKS) == 0


def trainer_of(plan: Plan, text: Text) -> Trainer:
    """As `luthier train` builds it."""
    settings = plan.settings
    model = registry.build(plan.model, seed=settings.seed, device=choose_device("cpu"))
    batches = RandomWindows(text.train, plan.model.context_length, settings.batch_size, seed=settings.seed)
    low = settings.precision == "bfloat16" or (settings.precision == "auto" and has_fast_bfloat16(CPU))
    trainer = Trainer(model, batches, settings, max(1, settings.steps), torch.bfloat16 if low else torch.float32)
    if settings.compile == "yes":
        trainer.compile()
    return trainer


def judge(trainer: Trainer, text: Text) -> float:
    """The loss over the whole validation text, in float32."""
    dtype, trainer.dtype = trainer.dtype, torch.float32
    with torch.compiler.set_stance("force_eager"):
        loss = trainer.evaluate(evaluation_batches(text.validation, trainer.batches.context_length, 64))
    trainer.dtype = dtype
    return loss


def luthier(plan: Plan, text: Text, target: float) -> Course:
    """A recipe, for as many steps as it says or until it is there."""
    clock, course = Clock(), Course("Luthier", [])
    trainer = trainer_of(plan, text)
    while trainer.step < trainer.total_steps and course.seconds_to(target) is None:
        trainer.train_step()
        if due(trainer.step, trainer.total_steps):
            course.looks.append((trainer.step, clock.seconds, clock.look(lambda: judge(trainer, text))))
    return course


def luthier_for(plan: Plan, text: Text, minutes: float) -> Course:
    """A recipe whose schedule ends when the time does: the number of steps is foreseen anew after each step."""
    clock, course, limit = Clock(), Course(f"Luthier, {minutes:g} minutes", []), 60 * minutes
    trainer = trainer_of(plan, text)
    trainer.train_step()  # compiles, which foresees nothing
    spent = 0.0
    while clock.seconds < limit:
        spent += trainer.train_step().seconds
        left = max(0.0, limit - clock.seconds) * (trainer.step - 1) / spent
        trainer.total_steps = trainer.step + math.ceil(left)
        if left == 0 or clock.seconds >= (len(course.looks) + 1) * limit / LOOKS:
            course.looks.append((trainer.step, clock.seconds, clock.look(lambda: judge(trainer, text))))
            Console().print(f"step {trainer.step:,}  {clock.seconds:.0f} s  validation loss {course.looks[-1][2]:.4f}")
    return course


class NanoGPT(nn.Module):
    """The GPT of nanoGPT's CPU recipe: pre-norm, no biases, learned positions, tied output."""

    def __init__(self, vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(context_length, dim)
        self.blocks = nn.ModuleList([NanoBlock(dim, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(dim, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embedding.weight.T


class NanoBlock(nn.Module):
    """Attention and a GELU feed-forward."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q, k, v = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))
        return out


def nanogpt(text: Text, target: float, *, steps: int = 2000, dim: int = 128, n_layers: int = 4) -> Course:
    """NanoGPT's recipe for a CPU: 64 characters of context, batches of 12, AdamW, cosine."""
    context, peak, lowest, warmup = 64, 1e-3, 1e-4, 100
    torch.manual_seed(1337)
    clock, course = Clock(), Course("nanoGPT for CPU", [])
    model = NanoGPT(text.vocab_size, context, dim, n_layers, n_heads=4)
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": 0.1},
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99))
    batches = RandomWindows(text.train, context, 12, seed=1337)

    def loss_of(batch: Batch, reduction: str = "mean") -> Tensor:
        logits = model(batch.inputs).flatten(0, 1)
        return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE_INDEX, reduction=reduction)

    @torch.no_grad()
    def judged() -> float:
        looked = list(evaluation_batches(text.validation, context, 64))
        total = sum(loss_of(batch, "sum").item() for batch in looked)
        return total / sum(int((batch.targets != IGNORE_INDEX).sum()) for batch in looked)

    for step in range(steps):
        done = (step - warmup) / max(1, steps - warmup)
        cosine = lowest + (peak - lowest) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = peak * (step + 1) / (warmup + 1) if step < warmup else cosine
        loss_of(batches.next_batch()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if due(step + 1, steps):
            course.looks.append((step + 1, clock.seconds, clock.look(judged)))
            if course.seconds_to(target) is not None:
                break
    return course


def show(courses: list[Course], target: float) -> None:
    """A table, and what it comes to."""
    table = Table(title="Tiny Shakespeare by characters, on CPU", title_justify="left")
    for column in ("", f"seconds to {target:g}", "steps", "seconds", "best loss"):
        table.add_column(column, justify="right" if column else "left")
    for course in courses:
        reached = course.seconds_to(target)
        step, seconds, _ = course.looks[-1]
        table.add_row(
            course.name, "not reached" if reached is None else f"{reached:.1f}", f"{step:,}", f"{seconds:.1f}",
            f"{course.best:.4f}",
        )  # fmt: skip
    Console().print(table)


def main() -> None:
    """Read the options, train, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="tiny-shakespeare", help="a file, or a corpus by name")
    parser.add_argument("--target", type=float, default=1.88, help="validation loss, nats a character")
    parser.add_argument("--recipe", help="instead of shakespeare, or with --minutes of shakespeare-long")
    parser.add_argument("--minutes", type=float, help="train this long, to the best loss")
    parser.add_argument("--alone", action="store_true", help="Luthier only")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a little text: does it run?")
    given = parser.parse_args()
    keep_freed_memory()
    text = read_text(given.text, 20_000 if given.smoke else None)
    recipe = given.recipe or ("shakespeare-long" if given.minutes else "shakespeare")
    plan = with_vocabulary(resolve(recipe=read_recipe(recipe), where=recipe), text.vocab_size)
    if given.smoke:
        plan = replace(plan, settings=replace(plan.settings, steps=4, epochs=0.0, compile="no", batch_size=2))
    if given.minutes:
        courses = [luthier_for(plan, text, given.minutes)]
    else:
        courses = [luthier(plan, text, given.target)]
        if not given.alone:
            courses.append(nanogpt(text, given.target, steps=4 if given.smoke else 2000))
    show(courses, given.target)
    if given.json:
        record: dict[str, Any] = {
            "target": given.target,
            "recipe": plan.toml(),
            "courses": [
                {"name": course.name, "seconds_to_target": course.seconds_to(given.target), "looks": course.looks}
                for course in courses
            ],
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
