"""Join checkpoints that were sharded for tensor parallelism.

Each shard has every tensor: an even slice of it along one dimension, or a copy. Which of these follows from the shapes.
A tensor may be several matrices stacked along dimension 0, its row_groups: then each group was sliced separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.weight_table import Checkpoint, Shape


class Shards:
    """Sharded checkpoints joined, one tensor at a time (a `weight_table.Checkpoint`).

    target_shapes: the shapes that the model needs. row_groups: for some tensors, the sizes of their row_groups.
    """

    def __init__(
        self, parts: Sequence[Checkpoint], target_shapes: Mapping[str, Shape], row_groups: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.parts, self.target_shapes, self.row_groups = parts, target_shapes, row_groups
        first, *others = [part.shapes() for part in parts]
        for number, shapes in enumerate(others, 1):
            if shapes != first:
                name = next(name for name in (*first, *shapes) if first.get(name) != shapes.get(name))
                raise LuthierError(
                    f"'{name}' is {first.get(name, 'missing')} in shard 0 and {shapes.get(name, 'missing')} in shard "
                    f"{number}: the shards are not of one model"
                )
        self.part_shapes = first

    def shapes(self) -> Mapping[str, Shape]:
        """The required shapes for tensors that can be joined to them; otherwise the shards' shapes."""
        return {name: self.target_shapes[name] if self.fits(name) else part for name, part in self.part_shapes.items()}

    def tensor(self, name: str) -> Tensor:
        parts = [part.tensor(name) for part in self.parts]
        dim = self.shard_dim(name)
        if dim != 0:
            return parts[0] if dim is None else torch.cat(parts, dim)
        sizes = [group // len(parts) for group in self.row_groups_of(name)]
        row_groups = zip(*(torch.split(part, sizes) for part in parts), strict=True)
        return torch.cat([piece for group in row_groups for piece in group])

    def fits(self, name: str) -> bool:
        """Whether the shards are copies of the required tensor, or slices of it."""
        return name in self.target_shapes and (
            self.part_shapes[name] == self.target_shapes[name] or self.shard_dim(name) is not None
        )

    def shard_dim(self, name: str) -> int | None:
        """The dimension along which a tensor was sharded; None for copies, and if none gives the required shape."""
        part, target, n = self.part_shapes[name], self.target_shapes.get(name, ()), len(self.parts)
        if part == target or len(part) != len(target):
            return None
        for dim in range(len(part)):
            joined = (*part[:dim], part[dim] * n, *part[dim + 1 :])
            if joined == target and (dim != 0 or not any(group % n for group in self.row_groups_of(name))):
                return dim
        return None

    def row_groups_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor's row_groups along dimension 0: a single group by default."""
        return self.row_groups.get(name) or (self.target_shapes[name][0],)
