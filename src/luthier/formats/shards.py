"""Join checkpoints that were sharded for tensor parallelism.

Each shard has every tensor: an even slice of it along one dimension, or a copy. Which of these follows from the shapes.
A tensor may be several matrices stacked along dimension 0, its row_groups: then each band was sliced separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.weight_table import Checkpoint, Shape


class Shards:
    """Sharded checkpoints joined, one tensor at a time (a `weight_table.Checkpoint`).

    whole: the shapes that the model needs. row_groups: for some tensors, the sizes of their row_groups.
    """

    def __init__(
        self, parts: Sequence[Checkpoint], whole: Mapping[str, Shape], row_groups: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.parts, self.whole, self.row_groups = parts, whole, row_groups
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
        """Shapes that the model needs, for tensors that can be joined so; otherwise those of the shards."""
        return {name: self.whole[name] if self.fits(name) else part for name, part in self.part_shapes.items()}

    def tensor(self, name: str) -> Tensor:
        parts = [part.tensor(name) for part in self.parts]
        dim = self.cut_along(name)
        if dim != 0:
            return parts[0] if dim is None else torch.cat(parts, dim)
        sizes = [band // len(parts) for band in self.bands_of(name)]
        row_groups = zip(*(torch.split(part, sizes) for part in parts), strict=True)
        return torch.cat([piece for band in row_groups for piece in band])

    def fits(self, name: str) -> bool:
        """Whether the shards are copies of the required tensor, or slices of it."""
        return name in self.whole and (self.part_shapes[name] == self.whole[name] or self.cut_along(name) is not None)

    def cut_along(self, name: str) -> int | None:
        """The dimension along which a tensor was sliced; None for copies, and where no slicing gives the required
        shape.
        """
        part, whole, n = self.part_shapes[name], self.whole.get(name, ()), len(self.parts)
        if part == whole or len(part) != len(whole):
            return None
        for dim in range(len(part)):
            joined = (*part[:dim], part[dim] * n, *part[dim + 1 :])
            if joined == whole and (dim != 0 or not any(band % n for band in self.bands_of(name))):
                return dim
        return None

    def bands_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor's row_groups along dimension 0: a single band by default."""
        return self.row_groups.get(name) or (self.whole[name][0],)
