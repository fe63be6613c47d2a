"""What all kinds of file share: an opened model, and the way from a checkpoint's tensors to it and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.formats.weight_table import Checkpoint, Table, to_external, to_internal
from luthier.model.transformer import Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear, Blocks
from luthier.tokenizers.core.tokenizer import Tokenizer

CHECKED_BYTES = 4 * 2**30  # of weights that are checked when a model opens
Watch = Callable[[int, int], None]  # (bytes done, bytes in all)


class Opened(NamedTuple):
    """What a file holds, or is to hold. tokenizer: None where a model came without one."""

    model: Transformer
    config: Config
    tokenizer: Tokenizer | None


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def read_weights(
    checkpoint: Checkpoint, table: Table, config: Config, device: torch.device, dtype: torch.dtype | None
) -> Transformer:
    """The model with a checkpoint's weights, one tensor at a time, mapped where they need no conversion.

    dtype: None takes that of the first weight, the embedding. Raises a LuthierError that names what is missing,
    unknown or of another shape.
    """
    model = registry.build_on_meta(config)
    weights: dict[str, Tensor] = {}
    for name, tensor in to_internal(table, checkpoint, model.state_dict()):
        dtype = dtype or tensor.dtype
        weights[name] = tensor.to(device, dtype)
    registry.assign_weights(model, weights)
    return model


def broken_weights(model: Transformer) -> list[str]:
    """The names of the weights that hold NaN or infinite numbers: also the scales of packed ones.

    Each tensor is summed up, which one such number spoils, in a few hundredths of a second for a model of 100 million.
    Of models over CHECKED_BYTES, whose mapped files would all be read here, rows spread evenly over each tensor are
    taken (`luthier verify` takes all).
    """
    tensors = [
        (name, tensor)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel()
    ]
    step = -(-sum(tensor.nbytes for _, tensor in tensors) // CHECKED_BYTES)
    sums = [total(tensor[::step] if tensor.ndim > 1 else tensor) for _, tensor in tensors]
    suspects = torch.stack(sums).isfinite().logical_not().nonzero().flatten().tolist() if sums else []
    # a sum can overflow where no number does
    broken = [tensors[i][0] for i in suspects if not bool(tensors[i][1].isfinite().all())]
    for name, module in model.named_modules():
        match module:
            case BlockLinear():
                matrix = module.blocks
            case BlockEmbedding():
                matrix = Blocks(module.kind, module.num_embeddings, module.embedding_dim, module.packed_weight)
            case _:
                continue
        if not bool(sums_of_rows(matrix).isfinite().all()):
            broken.append(f"{name}.weight")
    return broken


def sums_of_rows(blocks: Blocks) -> Tensor:
    """About the sum of each row of a matrix in blocks: infinite or NaN where one of its scales is."""
    return blocks.matmul(torch.ones(1, blocks.columns), None, wide=False)


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor, a float32 scalar."""
    with torch.no_grad():
        # bfloat16 has the range of float32, and its own sum is six times faster than one in float32
        kind = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
        return tensor.sum(dtype=kind).float()


def layout_of(table: Table, model: Transformer) -> dict[str, Tensor]:
    """Name, shape and dtype of every tensor that a file of this model has, as `meta` tensors."""
    return dict(to_external(table, {name: weight.to("meta") for name, weight in model.state_dict().items()}))


def written(table: Table, model: Transformer, watch: Watch) -> Iterator[tuple[str, Tensor]]:
    """Every tensor as the format has it, one at a time, in the order of `layout_of`."""
    total, done = sum(tensor.nbytes for tensor in layout_of(table, model).values()), 0
    for name, tensor in to_external(table, model.state_dict()):
        yield name, tensor
        done += tensor.nbytes
        watch(done, total)


def token_ids(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """The special tokens by the names that Hugging Face gives them. Nulls are written: its defaults are others.

    vocab_size: the model's. A padding token beyond it is left out: no embedding has it.
    """
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    ends = list(tokenizer.eos_ids)
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
        "pad_token_id": None if tokenizer.pad_id is None or tokenizer.pad_id >= vocab_size else tokenizer.pad_id,
    }
