"""Which families the compiled step takes: it declines every part that it does not know, and never leaves one out."""

from __future__ import annotations

import pytest
import torch

from luthier.architectures import registry
from luthier.generation.decoding_session import DecodingSession
from luthier.native import build
from luthier.native.program import native_step, unsupported_reason

TAKEN = {
    "gpt2",
    "composed",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "granite",
    "ernie4_5",
    "helium",
    "olmo",
    "gemma3",
}
TEXTS = [[5, 17, 99, 3, 64], [7, 8]]


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    try:
        build.library()
    except build.Unavailable as reason:
        pytest.skip(str(reason))


def lively(family: str) -> torch.nn.Module:
    """The smallest size of a family in bfloat16, with weights that show every part that is left out."""
    model = registry.build(registry.preset(f"{family}-nano"), dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(0.3 * noise)
            else:
                weight.copy_(1.5 * noise * (1 if "embedding" in name else weight.shape[-1] ** -0.5))
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        ("granite", "blocks.1.attention_post", "factor"),
        ("granite", "embedding", "scale"),
        ("granite", "norm", "scale"),
        ("qwen3", "blocks.1.attention.qk_steps.0.key", "eps"),
    ],
)
def test_a_changed_constant_ends_the_step(family, part, name):
    model = lively(family)
    step = native_step(model, 32)
    assert step is not None
    assert step.is_valid()
    module = model.get_submodule(part)
    setattr(module, name, 2 * getattr(module, name))
    assert not step.is_valid()


def test_a_hook_on_the_norm_of_queries_and_keys_ends_the_step():
    model = lively("qwen3")
    step = native_step(model, 32)
    assert step is not None
    model.layers[0].attention.qk_steps[0].register_forward_hook(lambda _, given, out: (out[0] * 2, out[1]))
    assert not step.is_valid()
    assert native_step(model, 32) is None


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_a_family_is_computed_as_by_pytorch_or_declined(family):
    model = lively(family)
    with torch.inference_mode():
        ours, plain = (DecodingSession(model, TEXTS, 20, vocab_size=512, native=native) for native in (True, False))
        assert (ours.step is not None) == (family in TAKEN), unsupported_reason(model)
        for _ in range(3):
            found, expected = ours.logits(), plain.logits()
            assert (found - expected).std() < 0.03 * expected.std()
            for session in (ours, plain):
                session.append(expected.argmax(-1))
