"""What all file kinds share: a loaded model, and conversion between a checkpoint's tensors and the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.architectures import registry
from luthier.architectures.family import Config
from luthier.formats.weight_table import Checkpoint, Table, check_covers, to_external, to_internal
from luthier.model.transformer import Transformer
from luthier.native.blocks import BlockEmbedding, BlockLinear, Blocks
from luthier.tokenizers.core.tokenizer import Tokenizer

CHECKED_BYTES = 4 * 2**30  # of weights that are checked for NaN when a model is loaded
ProgressCallback = Callable[[int, int], None]  # (bytes done, total bytes)


class LoadedModel(NamedTuple):
    """A model as loaded from a file or to be written to one. tokenizer: None for a model without one."""

    model: Transformer
    config: Config
    tokenizer: Tokenizer | None


def no_progress(done: int, total: int) -> None:
    """A ProgressCallback that does nothing."""


def read_weights(
    checkpoint: Checkpoint, table: Table, config: Config, device: torch.device, dtype: torch.dtype | None
) -> Transformer:
    """Build a model with a checkpoint's weights, one tensor at a time, memory-mapped where they need no conversion.

    dtype: None for that of the first weight, the embedding. Raises a LuthierError that names tensors that are missing,
    unknown or of the wrong shape.
    """
    model = registry.build_on_meta(config)
    weights: dict[str, Tensor] = {}
    for name, tensor in to_internal(table, checkpoint, model.state_dict()):
        dtype = dtype or tensor.dtype
        weights[name] = tensor.to(device, dtype)
    registry.assign_weights(model, weights)
    return model


def nonfinite_weights(model: Transformer) -> list[str]:
    """Names of weights with NaN or infinite values, including the scales of quantized ones.

    Each tensor is summed, which any such value makes non-finite: a few hundredths of a second for 100 million
    parameters. In models over CHECKED_BYTES, whose mapped files would all be read here, only evenly spaced rows of each
    tensor are checked (`luthier verify` checks all).
    """
    tensors = [
        (name, tensor)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel()
    ]
    step = -(-sum(tensor.nbytes for _, tensor in tensors) // CHECKED_BYTES)
    sums = [tensor_sum(tensor[::step] if tensor.ndim > 1 else tensor) for _, tensor in tensors]
    suspects = torch.stack(sums).isfinite().logical_not().nonzero().flatten().tolist() if sums else []
    # a sum can overflow although no value does
    broken = [tensors[i][0] for i in suspects if not bool(tensors[i][1].isfinite().all())]
    for name, module in model.named_modules():
        match module:
            case BlockLinear():
                matrix = module.blocks
            case BlockEmbedding():
                matrix = Blocks(module.kind, module.num_embeddings, module.embedding_dim, module.packed_weight)
            case _:
                continue
        if not bool(row_sums(matrix).isfinite().all()):
            broken.append(f"{name}.weight")
    return broken


def row_sums(blocks: Blocks) -> Tensor:
    """Approximate sum of each row of a quantized matrix: non-finite if any of its scales is."""
    return blocks.matmul(torch.ones(1, blocks.columns), None, wide=False)


def tensor_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor, a float32 scalar."""
    with torch.no_grad():
        # bfloat16 has the range of float32, and its own sum is six times faster than one in float32
        dtype = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32
        return tensor.sum(dtype=dtype).float()


def external_layout(table: Table, model: Transformer) -> dict[str, Tensor]:
    """Name, shape and dtype of every tensor in a file of this model, as `meta` tensors.

    Raises a LuthierError where the table and the model do not have the same weights.
    """
    weights = {name: weight.to("meta") for name, weight in model.state_dict().items()}
    check_covers(table, weights, may_lack=("output.weight",) if model.tie_embeddings else ())
    return dict(to_external(table, weights))


def external_tensors(table: Table, model: Transformer, progress: ProgressCallback) -> Iterator[tuple[str, Tensor]]:
    """Convert the model to the format's tensors, one at a time, in the order of `external_layout`."""
    total, done = sum(tensor.nbytes for tensor in external_layout(table, model).values()), 0
    for name, tensor in to_external(table, model.state_dict()):
        yield name, tensor
        done += tensor.nbytes
        progress(done, total)


def token_ids(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """Special token ids under their names in config.json. Nulls are written, since transformers has other defaults.

    vocab_size: the model's. A padding token beyond it is left out, since it has no embedding.
    """
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    ends = list(tokenizer.eos_ids)
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
        "pad_token_id": None if tokenizer.pad_id is None or tokenizer.pad_id >= vocab_size else tokenizer.pad_id,
    }
