"""What the settings of all architectures share in GGUF files: the vocabulary, heads, and rotary positions.

llama.cpp has no setting for Llama 3.1's stretch of rotary positions. Its files hold a tensor of factors instead, one
for each pair, that divide the frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.architectures.names.settings import LARGEST_CONTEXT, LARGEST_DEPTH, ConfigJson
from luthier.errors import LuthierError
from luthier.formats.names import Checkpoint, Derived, Rule
from luthier.model.rope import Rope, RopeScaling

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
# (low_freq_factor, high_freq_factor, original context) of Llama 3.1 to 3.3, and of Llama 4 Scout
PUBLISHED = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))


def read_vocab_size(checkpoint: Checkpoint) -> int:
    """Entries of the vocabulary: the rows of the embedding, since not every file has a setting that says it."""
    shape = checkpoint.shapes().get(EMBEDDING, ())
    if len(shape) != 2:
        raise LuthierError(f"'{EMBEDDING}' is missing, or no matrix")
    return shape[0]


def read_depth(settings: ConfigJson, section: str, checkpoint: Checkpoint) -> int:
    """The number of layers: at most that of the tensors, so that a wrong one costs nothing."""
    return settings.count(f"{section}.block_count", most=min(LARGEST_DEPTH, len(checkpoint.shapes())))


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the embedding is the output matrix too: then the file has no other."""
    return OUTPUT not in checkpoint.shapes()


def read_head_dim(settings: ConfigJson, section: str, dim: int, n_heads: int) -> int | None:
    """Width of a head; None where the heads divide dim, as they do unless told otherwise."""
    size = settings.count(f"{section}.attention.key_length", max(1, dim // n_heads))
    settings.only(f"{section}.attention.value_length", size)
    settings.only(f"{section}.rope.dimension_count", size)
    return None if size * n_heads == dim else size


def write_heads(section: str, n_heads: int, n_kv_heads: int, head_dim: int) -> dict[str, Any]:
    """The settings of attention with rotary positions."""
    return {
        f"{section}.attention.head_count": n_heads,
        f"{section}.attention.head_count_kv": n_kv_heads,
        f"{section}.attention.key_length": head_dim,
        f"{section}.attention.value_length": head_dim,
        f"{section}.rope.dimension_count": head_dim,
    }


def write_rope(section: str, theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The rotary settings."""
    base: dict[str, Any] = {f"{section}.rope.freq_base": theta}
    if scaling is None:
        return base
    return base | {
        "luthier.rope_scaling.factor": scaling.factor,
        "luthier.rope_scaling.low_freq_factor": scaling.low_freq_factor,
        "luthier.rope_scaling.high_freq_factor": scaling.high_freq_factor,
        "luthier.rope_scaling.original_context_length": scaling.original_context_length,
    }


def read_rope(
    settings: ConfigJson, section: str, head_dim: int, checkpoint: Checkpoint
) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling). In files that are not ours the scaling is found from the factors."""
    theta = settings.number(f"{section}.rope.freq_base", 10_000.0)
    settings.only(f"{section}.rope.scaling.type", None, "none")
    settings.only(f"{section}.rope.scaling.factor", None, 1.0)
    settings.only(f"{section}.rope.scale_linear", None, 1.0)  # in files of old
    if "luthier.rope_scaling.factor" in settings.values:
        low = settings.number("luthier.rope_scaling.low_freq_factor")
        high = settings.number("luthier.rope_scaling.high_freq_factor")
        if low > high:
            raise LuthierError(f"the settings: low_freq_factor {low:g} is above high_freq_factor {high:g}")
        original = settings.count("luthier.rope_scaling.original_context_length", most=LARGEST_CONTEXT)
        return theta, RopeScaling(settings.number("luthier.rope_scaling.factor"), low, high, original)
    if ROPE_FACTORS not in checkpoint.shapes():
        return theta, None
    return theta, scaling_of(checkpoint.tensor(ROPE_FACTORS), head_dim, theta)


def scaling_of(factors: Tensor, head_dim: int, theta: float) -> RopeScaling | None:
    """The scaling with these factors (D/2,), if it is one that a published model has, whatever its `factor`."""
    if bool((factors == 1).all()):
        return None
    if head_dim % 2 == 0 and factors.shape == (head_dim // 2,) and 1 < (factor := float(factors.max())) < 2**53:
        for low, high, original in PUBLISHED:
            scaling = RopeScaling(factor, low, high, original)
            if torch.allclose(factors.float(), rope_factors(head_dim, theta, scaling), rtol=1e-4):
                return scaling
    raise LuthierError(f"'{ROPE_FACTORS}' stretches rotary positions in a way that no Llama of Meta's has")


def rope_factors(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """What each pair's frequency is divided by, (D/2,)."""
    return Rope(head_dim, theta).frequencies() / Rope(head_dim, theta, scaling).frequencies()


def rope_rules(head_dim: int, theta: float, scaling: RopeScaling | None) -> list[Rule]:
    """The rule of the factors, where there are any."""
    return [] if scaling is None else [Rule(ROPE_FACTORS, (), Derived(rope_factors(head_dim, theta, scaling)))]
