"""Mapping between a format's weights and ours, by name and layout: one table for both directions.

A `Table` is a list of `Rule`s. A rule maps one or more of the format's tensors ("theirs") to one or more of ours by
invertible steps, so that the same line reads a checkpoint and writes one. Tensors are converted one rule at a time, and
the shapes that a file must have are computed by running the rules backwards on the `meta` device: no tensor is held
twice, and a wrong file is refused before its data is read.

Shapes: D head_dim; "rows" are dimension 0 of a (out, in) weight or of an (out,) bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor

from luthier.errors import LuthierError

Shape = tuple[int, ...]
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Step(Protocol):
    """An invertible change of layout. The lists are the tensors of one rule, in the rule's order."""

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Transpose:
    """Their matrices are (in, out), ours (out, in)."""

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.mT for tensor in tensors]

    to_theirs = to_ours


@dataclass(frozen=True)
class Split:
    """One of their tensors is the concatenation of several of ours along `dim`."""

    sizes: tuple[int, ...]
    dim: int = 0

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(torch.split(tensors[0], list(self.sizes), self.dim))

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors, self.dim)]


@dataclass(frozen=True)
class Join:
    """One of our tensors is the concatenation of several of theirs along `dim`."""

    sizes: tuple[int, ...]
    dim: int = 0

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors, self.dim)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(torch.split(tensors[0], list(self.sizes), self.dim))


@dataclass(frozen=True)
class Stack:
    """Their matrices of each expert are tensors by themselves; ours lie in one, along a new first dimension.

    kinds: how many kinds of matrix the rule has, all the experts of one kind after another; each becomes one tensor.
    """

    kinds: int = 1

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        n_experts = len(tensors) // self.kinds
        return [torch.stack(tensors[n * n_experts : (n + 1) * n_experts]) for n in range(self.kinds)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [matrix for tensor in tensors for matrix in tensor.unbind(0)]


@dataclass(frozen=True)
class Reshape:
    """Reshape, keeping the order of elements."""

    theirs: Shape
    ours: Shape

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.reshape(self.ours) for tensor in tensors]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.reshape(self.theirs) for tensor in tensors]


@dataclass(frozen=True)
class PairsToHalves:
    """Their rotary pairs are interleaved, (0, 1), (2, 3), ...; ours are in halves, (0, D/2), (1, D/2 + 1), ...

    n_heads: of each tensor of the rule, None for one without rotary embedding (the values).
    """

    n_heads: tuple[int | None, ...]

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        return [swap_rows(tensor, heads, (-1, 2)) for tensor, heads in zip(tensors, self.n_heads, strict=True)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [swap_rows(tensor, heads, (2, -1)) for tensor, heads in zip(tensors, self.n_heads, strict=True)]


def swap_rows(tensor: Tensor, n_heads: int | None, grid: tuple[int, int]) -> Tensor:
    """View the rows of each head as a grid and transpose it."""
    if n_heads is None:
        return tensor
    return tensor.reshape(n_heads, *grid, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class ZeroBias:
    """They have a bias where we have none; it must be zero. out: the weight's output dimension."""

    out: int = 1

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        weight, bias = tensors
        if bias.any():
            raise LuthierError("the bias is not zero, and by its config this model has none")
        return [weight]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        (weight,) = tensors
        return [weight, weight.new_zeros(weight.shape[self.out])]


@dataclass(frozen=True, eq=False)
class Derived:
    """A tensor of theirs computed from the config, with none of ours. May differ from `value` by rounding."""

    value: Tensor

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        if not torch.allclose(tensors[0].to(self.value), self.value, rtol=1e-3, atol=0):
            raise LuthierError("the values do not follow from the config")
        return []

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self.value]


class Rule:
    """Their tensors, ours, and the steps from theirs to ours.

    Rule("model.norm.weight", "norm.weight") renames; Rule("c_attn.weight", ("q", "k", "v"), Transpose(), Split(...))
    also splits one tensor in three.
    """

    def __init__(self, theirs: str | tuple[str, ...], ours: str | tuple[str, ...], *steps: Step) -> None:
        self.theirs = (theirs,) if isinstance(theirs, str) else theirs
        self.ours = (ours,) if isinstance(ours, str) else ours
        self.steps = steps

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        """Convert their tensors, in the order of `theirs`, to ours, in the order of `ours`: views where possible."""
        for step in self.steps:
            tensors = step.to_ours(tensors)
        return tensors

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        """Convert our tensors to theirs; inverse of `to_ours`."""
        for step in reversed(self.steps):
            tensors = step.to_theirs(tensors)
        return tensors


def each_layer(layers: Iterable[int], rules: Sequence[Rule]) -> list[Rule]:
    """Repeat the rules for each of these layers, with its index for "{layer}" in the names."""
    return [
        Rule(
            tuple(name.replace("{layer}", str(layer)) for name in rule.theirs),
            tuple(name.replace("{layer}", str(layer)) for name in rule.ours),
            *rule.steps,
        )
        for layer in layers
        for rule in rules
    ]


@dataclass(frozen=True)
class Table:
    """All weight names of one format for one model.

    prefixes: optional prefixes of their names. ignored: patterns (fnmatch) of their names, without prefixes, of tensors
    that are not needed. repeats: (duplicate, original) for tensors that some files hold twice.
    """

    rules: list[Rule]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    repeats: tuple[tuple[str, str], ...] = ()

    def bare(self, name: str) -> str:
        """One of their names without the optional prefixes."""
        while prefix := next((prefix for prefix in self.prefixes if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        return name

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of theirs that no rule reads is expected and can be ignored."""
        bare = self.bare(name)
        return bare in dict(self.repeats) or any(fnmatchcase(bare, pattern) for pattern in self.ignored)


class Checkpoint(Protocol):
    """A file or folder of weights whose tensors are read on demand."""

    def shapes(self) -> Mapping[str, Shape]:
        """Name and shape of every tensor."""

    def tensor(self, name: str) -> Tensor:
        """One tensor, memory-mapped where the format allows."""


def to_theirs(table: Table, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Convert our weights to every tensor of the format, lazily. From `meta` weights: names and shapes only."""
    for rule in table.rules:
        yield from zip(rule.theirs, rule.to_theirs([weights[name] for name in rule.ours]), strict=True)


def to_ours(table: Table, checkpoint: Checkpoint, model: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Convert a checkpoint to every weight of `model` (its state dict on `meta`), lazily.

    Raises a LuthierError that names the tensors that are missing, unknown, or of another shape than the model's.
    """
    shapes = checkpoint.shapes()
    names = bare_names(table, shapes)  # bare name -> name in the checkpoint
    expected = {name: tuple(tensor.shape) for name, tensor in to_theirs(table, model)}
    check_shapes(table, names, shapes, expected)
    for again, first in table.repeats:
        if again in names and not checkpoint.tensor(names[again]).equal(checkpoint.tensor(names[table.bare(first)])):
            raise LuthierError(f"'{names[again]}' differs from '{first}', which it repeats by the config")
    for rule in table.rules:
        theirs = [checkpoint.tensor(names[table.bare(name)]) for name in rule.theirs]
        for name, tensor in zip(rule.theirs, theirs, strict=True):
            if tensor.dtype not in FLOATS:
                raise LuthierError(
                    f"'{name}' holds {str(tensor.dtype).removeprefix('torch.')}, not floats of 16 bits up"
                )
        try:
            ours = rule.to_ours(theirs)
        except LuthierError as error:
            raise LuthierError(f"'{rule.theirs[-1]}': {error}") from None
        yield from ((name, tensor.contiguous()) for name, tensor in zip(rule.ours, ours, strict=True))


def bare_names(table: Table, names: Iterable[str]) -> dict[str, str]:
    """Map bare names to a checkpoint's names."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(table.bare(name), name)
        if other != name:
            raise LuthierError(f"two tensors for one weight: '{other}' and '{name}'")
    return found


def check_shapes(
    table: Table, names: Mapping[str, str], shapes: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> None:
    """Check a checkpoint's names and shapes against those the model needs, before any data is read."""
    needed = {table.bare(name): name for name in expected}
    problems = {
        "missing": [f"'{name}' {expected[name]}" for bare, name in needed.items() if bare not in names],
        "unknown": [
            f"'{name}' {shapes[name]}"
            for bare, name in names.items()
            if bare not in needed and not table.is_ignored(name)
        ],
        "of another shape": [
            f"'{names[bare]}' is {shapes[names[bare]]} and must be {expected[name]}"
            for bare, name in needed.items()
            if bare in names and shapes[names[bare]] != expected[name]
        ],
    }
    if any(problems.values()):
        raise LuthierError("; ".join(f"{kind}: {listed(which)}" for kind, which in problems.items() if which))


def listed(things: Sequence[str], most: int = 3) -> str:
    """The first few of a list, and how many more, for a one-line error."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more
