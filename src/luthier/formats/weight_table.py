"""Bidirectional mapping between the weights of a file format and Luthier's, by name and layout.

A `Table` is a list of `Rule`s. A rule maps one or more tensors of the format ("external") to one or more of Luthier's
("internal") by invertible steps, so that the same rule reads and writes checkpoints. Tensors are converted one rule at
a time, and the expected shapes are computed by running the rules backwards on the `meta` device: no tensor is held
twice, and a wrong file is rejected before its data is read.

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
    """An invertible change of layout. The lists hold the tensors of one rule, in the rule's order."""

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Transpose:
    """External matrices are (in, out), internal ones (out, in)."""

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.mT for tensor in tensors]

    to_external = to_internal


@dataclass(frozen=True)
class Split:
    """One external tensor is the concatenation of several internal ones along `dim`."""

    sizes: tuple[int, ...]
    dim: int = 0

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(torch.split(tensors[0], list(self.sizes), self.dim))

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors, self.dim)]


@dataclass(frozen=True)
class Join:
    """One internal tensor is the concatenation of several external ones along `dim`."""

    sizes: tuple[int, ...]
    dim: int = 0

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors, self.dim)]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(torch.split(tensors[0], list(self.sizes), self.dim))


@dataclass(frozen=True)
class Stack:
    """External matrices of each expert are separate tensors; the internal tensor stacks them along dimension 0.

    kinds: number of matrices per expert (all experts of the first matrix come first); each becomes one tensor.
    """

    kinds: int = 1

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        n_experts = len(tensors) // self.kinds
        return [torch.stack(tensors[n * n_experts : (n + 1) * n_experts]) for n in range(self.kinds)]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [matrix for tensor in tensors for matrix in tensor.unbind(0)]


@dataclass(frozen=True)
class Deinterleave:
    """Externally two kinds of columns alternate, a, b, a, b, ...; internally all of a come before all of b."""

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat((tensor[..., ::2], tensor[..., 1::2]), -1) for tensor in tensors]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.stack(tensor.chunk(2, -1), -1).flatten(-2) for tensor in tensors]


@dataclass(frozen=True)
class SplitByHead:
    """The rows of one external tensor are, head by head, those of several internal ones (GPT-NeoX, DeepSeek).

    sizes: rows of a head in each of the internal tensors.
    """

    n_heads: int
    sizes: tuple[int, ...]

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        (rows,) = tensors
        by_head = rows.reshape(self.n_heads, -1, *rows.shape[1:])
        return [part.reshape(-1, *rows.shape[1:]) for part in torch.split(by_head, list(self.sizes), 1)]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        columns = tensors[0].shape[1:]
        by_head = [tensor.reshape(self.n_heads, -1, *columns) for tensor in tensors]
        return [torch.cat(by_head, 1).reshape(-1, *columns)]


@dataclass(frozen=True)
class Reshape:
    """Reshape, keeping the order of elements."""

    external: Shape
    internal: Shape

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.reshape(self.internal) for tensor in tensors]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.reshape(self.external) for tensor in tensors]


@dataclass(frozen=True)
class PairsToHalves:
    """External rotary pairs are interleaved, (0, 1), (2, 3), ...; internal ones are halves, (0, D/2), (1, D/2 + 1), ...

    n_heads: for each tensor of the rule; None for one without RoPE (the values). rotated: the rows of each head that
    RoPE rotates, from row `begin` on; all unless given.
    """

    n_heads: tuple[int | None, ...]
    rotated: int | None = None
    begin: int = 0

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self.swap(tensor, heads, (-1, 2)) for tensor, heads in zip(tensors, self.n_heads, strict=True)]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self.swap(tensor, heads, (2, -1)) for tensor, heads in zip(tensors, self.n_heads, strict=True)]

    def swap(self, tensor: Tensor, n_heads: int | None, grid: tuple[int, int]) -> Tensor:
        """Swap the rotated rows."""
        if n_heads is None or self.rotated is None:
            return swap_rows(tensor, n_heads, grid)
        by_head = tensor.reshape(n_heads, -1, *tensor.shape[1:])
        end = self.begin + self.rotated
        rows = swap_rows(by_head[:, self.begin : end].flatten(0, 1), n_heads, grid)
        rows = rows.reshape(n_heads, self.rotated, *tensor.shape[1:])
        return torch.cat((by_head[:, : self.begin], rows, by_head[:, end:]), 1).reshape(tensor.shape)


@dataclass(frozen=True)
class SwapHalves:
    """External rotary pairs turn the other way round, which is the same as the two halves of each head swapped.

    n_heads: for each tensor of the rule.
    """

    n_heads: tuple[int, ...]

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [
            tensor.reshape(heads, 2, -1, *tensor.shape[1:]).flip(1).reshape(tensor.shape)
            for tensor, heads in zip(tensors, self.n_heads, strict=True)
        ]

    to_external = to_internal


def swap_rows(tensor: Tensor, n_heads: int | None, grid: tuple[int, int]) -> Tensor:
    """View the rows of each head as a grid and transpose it."""
    if n_heads is None:
        return tensor
    return tensor.reshape(n_heads, *grid, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


class Twice:
    """The external format has one internal tensor twice, the same numbers under two names."""

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        first, again = tensors
        if not again.equal(first):
            raise LuthierError("it differs from the embedding, which it repeats by the config")
        return [first]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0], tensors[0]]


@dataclass(frozen=True)
class AddOne:
    """External weights are the internal ones plus 1, added in float32 (norms of 1 + w in GGUF files)."""

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.float() - 1 for tensor in tensors]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.float() + 1 for tensor in tensors]


@dataclass(frozen=True)
class ZeroBias:
    """The external format has a bias where the model has none; it must be zero. out: the weight's output dimension."""

    out: int = 1

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        weight, bias = tensors
        if bias.any():
            raise LuthierError("the bias is not zero, but the config says that this model has no bias")
        return [weight]

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        (weight,) = tensors
        return [weight, weight.new_zeros(weight.shape[self.out])]


@dataclass(frozen=True, eq=False)
class Computed:
    """An external tensor computed from the config, without an internal one. May differ from `value` by rounding."""

    value: Tensor

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        if not torch.allclose(tensors[0].to(self.value), self.value, rtol=1e-3, atol=0):
            raise LuthierError("the values do not follow from the config")
        return []

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self.value]


class Rule:
    """External tensors, internal tensors, and the steps that convert between them.

    Rule("model.norm.weight", "norm.weight") renames; Rule("c_attn.weight", ("q", "k", "v"), Transpose(), Split(...))
    also splits one tensor in three.
    """

    def __init__(self, external: str | tuple[str, ...], internal: str | tuple[str, ...], *steps: Step) -> None:
        self.external = (external,) if isinstance(external, str) else external
        self.internal = (internal,) if isinstance(internal, str) else internal
        self.steps = steps

    def to_internal(self, tensors: list[Tensor]) -> list[Tensor]:
        """Convert external tensors, in order, to internal ones: views where possible."""
        for step in self.steps:
            tensors = step.to_internal(tensors)
        return tensors

    def to_external(self, tensors: list[Tensor]) -> list[Tensor]:
        """Convert internal tensors to external ones; inverse of `to_internal`."""
        for step in reversed(self.steps):
            tensors = step.to_external(tensors)
        return tensors


def each_layer(layers: Iterable[int], rules: Sequence[Rule]) -> list[Rule]:
    """Instantiate the rules for each of these layers, replacing "{layer}" in the names by its index."""
    return [
        Rule(
            tuple(name.replace("{layer}", str(layer)) for name in rule.external),
            tuple(name.replace("{layer}", str(layer)) for name in rule.internal),
            *rule.steps,
        )
        for layer in layers
        for rule in rules
    ]


@dataclass(frozen=True)
class Table:
    """All weights of one model in one format.

    prefixes: optional prefixes of external names. ignored: patterns (fnmatch) of external names, without prefixes, of
    tensors that are not needed. duplicates: (duplicate, original) for tensors that some files contain twice.
    """

    rules: list[Rule]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()

    def strip_prefixes(self, name: str) -> str:
        """An external name without the optional prefixes."""
        while prefix := next((prefix for prefix in self.prefixes if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        return name

    def is_ignored(self, name: str) -> bool:
        """Whether an external tensor that no rule reads can be ignored."""
        bare = self.strip_prefixes(name)
        return bare in dict(self.duplicates) or any(fnmatchcase(bare, pattern) for pattern in self.ignored)


class Checkpoint(Protocol):
    """A file or folder of weights whose tensors are read on demand."""

    def shapes(self) -> Mapping[str, Shape]:
        """Name and shape of every tensor."""

    def tensor(self, name: str) -> Tensor:
        """One tensor, memory-mapped where the format allows."""


def to_external(table: Table, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Convert the model's weights to every tensor of the format, lazily. `meta` weights give names and shapes only."""
    for rule in table.rules:
        yield from zip(rule.external, rule.to_external([weights[name] for name in rule.internal]), strict=True)


def check_covers(table: Table, weights: Iterable[str], may_lack: tuple[str, ...] = ()) -> None:
    """Raise a LuthierError where a table lacks one of the model's weights, so that a file would, or names another.

    may_lack: the weights that a table need not have.
    """
    mapped, there = {name for rule in table.rules for name in rule.internal}, set(weights)
    problems = {
        "has no rule for": sorted(there - mapped - set(may_lack)),
        "names what the model does not have:": sorted(mapped - there),
    }
    if any(problems.values()):
        found = "; it ".join(f"{kind} {join_first(which)}" for kind, which in problems.items() if which)
        raise LuthierError(f"the table of this format's weights {found}: correct it in the family's file")


def to_internal(table: Table, checkpoint: Checkpoint, model: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Convert a checkpoint to every weight of `model` (its state dict on `meta`), lazily.

    Raises a LuthierError that names the tensors that are missing, unknown, or of the wrong shape.
    """
    shapes = checkpoint.shapes()
    names = names_without_prefixes(table, shapes)  # bare name -> name in the checkpoint
    expected = {name: tuple(tensor.shape) for name, tensor in to_external(table, model)}
    check_shapes(table, names, shapes, expected)
    for again, first in table.duplicates:
        if again in names and not checkpoint.tensor(names[again]).equal(
            checkpoint.tensor(names[table.strip_prefixes(first)])
        ):
            raise LuthierError(f"'{names[again]}' differs from '{first}', which it must equal by the config")
    for rule in table.rules:
        external = [checkpoint.tensor(names[table.strip_prefixes(name)]) for name in rule.external]
        for name, tensor in zip(rule.external, external, strict=True):
            if tensor.dtype not in FLOATS:
                raise LuthierError(
                    f"'{name}' holds {str(tensor.dtype).removeprefix('torch.')}, not floats of 16 bits or more"
                )
        try:
            internal = rule.to_internal(external)
        except LuthierError as error:
            raise LuthierError(f"'{rule.external[-1]}': {error}") from None
        yield from ((name, tensor.contiguous()) for name, tensor in zip(rule.internal, internal, strict=True))


def names_without_prefixes(table: Table, names: Iterable[str]) -> dict[str, str]:
    """Map names without prefixes to a checkpoint's names."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(table.strip_prefixes(name), name)
        if other != name:
            raise LuthierError(f"two tensors for one weight: '{other}' and '{name}'")
    return found


def check_shapes(
    table: Table, names: Mapping[str, str], shapes: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> None:
    """Check a checkpoint's names and shapes against those the model needs, before any data is read."""
    needed = {table.strip_prefixes(name): name for name in expected}
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
        raise LuthierError("; ".join(f"{kind}: {join_first(which)}" for kind, which in problems.items() if which))


def join_first(things: Sequence[str], most: int = 3) -> str:
    """Join the first few of a list, and the number of the others, for an error message."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more
