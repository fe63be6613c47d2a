"""Copies of a model and of tensors, taken in an instant and written later."""

from __future__ import annotations

from torch import Tensor

from luthier.architectures import registry
from luthier.language_model import LanguageModel
from luthier.training.distributed import full_tensor


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors to CPU memory, gathered if they are sharded (then collective)."""
    return {name: full_tensor(tensor.detach()).cpu().clone() for name, tensor in tensors.items()}


def snapshot(lm: LanguageModel) -> LanguageModel:
    """Copy the model to CPU memory."""
    weights = lm.model.state_dict()
    if lm.model.tie_embeddings:
        del weights["output.weight"]  # the embedding's, once is enough
    model = registry.build_on_meta(lm.config)
    registry.assign_weights(model, copied(weights))
    return LanguageModel(model, lm.tokenizer, lm.config)
