"""Part by part against transformers: where two models part, this names the first part that differs."""

from __future__ import annotations

import more_models
import pytest
import torch
from peers import MODELS, SCALING_31, SCALING_SCOUT, llama, llama4, tokens, twin
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm, Llama4TextRotaryEmbedding, apply_rotary_emb

from luthier.formats.weight_table import PairsToHalves
from luthier.model.context import AttentionContext
from luthier.model.norm import RMSNorm
from luthier.model.rope import QueryTemperature, Rope, RopeScaling, UnitQKNorm

POSITIONS = torch.tensor([[0, 1, 2, 5, 63, 8191, 8192, 100_000]])
STRETCH_31 = RopeScaling(8.0, 1.0, 4.0, 32)
STRETCH_SCOUT = RopeScaling(16.0, 1.0, 1.0, 32)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    ours, theirs = RMSNorm(16, 1e-3).to(dtype), LlamaRMSNorm(16, 1e-3).to(dtype)
    weight = nn.Parameter(random(16).to(dtype))
    ours.weight = theirs.weight = weight
    x = random(3, 5, 16).to(dtype)
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("parameters", "scaling"),
    [
        ({"rope_type": "default", "rope_theta": 10_000.0}, None),
        (SCALING_31, STRETCH_31),
        (SCALING_SCOUT, STRETCH_SCOUT),
    ],
)
def test_rotary_frequencies(parameters, scaling):
    config = llama(rope_parameters=parameters, head_dim=64).config
    ours = Rope(64, parameters["rope_theta"], scaling).frequencies()
    assert_close(ours, LlamaRotaryEmbedding(config).inv_freq)
    if scaling is not None:
        assert not torch.allclose(ours, Rope(64, parameters["rope_theta"]).frequencies())


def test_rotary_positions_of_llama():
    q, k = random(2, 4, 8, 8), random(2, 2, 8, 8)
    cos, sin = LlamaRotaryEmbedding(llama(rope_parameters=SCALING_31).config)(q, POSITIONS)
    rope = Rope(8, 10_000.0, STRETCH_31)
    ours = rope(q, k, context(rope))
    assert_close(ours, apply_rotary_pos_emb(q, k, cos, sin), atol=1e-5, rtol=0)


def test_rotary_positions_of_llama4_are_pairs_of_neighbors():
    q, k = random(2, 8, 4, 8), random(2, 8, 2, 8)  # (B, T, H, D), as there
    angles = Llama4TextRotaryEmbedding(llama4(rope_parameters=SCALING_SCOUT).config)(q, POSITIONS)
    theirs = apply_rotary_emb(q, k, angles)
    rope = Rope(8, 500_000.0, STRETCH_SCOUT)
    ours = rope(halves(q).transpose(1, 2), halves(k).transpose(1, 2), context(rope))
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our.transpose(1, 2), halves(their), atol=1e-5, rtol=0)


def context(rope: Rope | None = None) -> AttentionContext:
    return AttentionContext(POSITIONS, None if rope is None else rope.angles(POSITIONS), None, 0)


def halves(x: Tensor) -> Tensor:
    """Llama 4's order within a head (last dimension) -> ours."""
    return PairsToHalves((1,)).to_internal([x.movedim(-1, 0)])[0].movedim(0, -1)


def test_unit_norm_of_queries_and_keys():
    q, k = random(2, 4, 8, 8), random(2, 2, 8, 8) * 1e-3  # small ones show eps
    theirs = Llama4TextL2Norm(1e-5)
    assert_close(UnitQKNorm(1e-5)(q, k, context()), (theirs(q), theirs(k)))


@torch.no_grad()
def test_temperature_of_queries():
    """Seen by what a global layer's attention does with it: the formula stands inside it there."""
    peer = llama4(floor_scale=2, attn_scale=0.7)
    x = random(1, 12, 32)
    mask = torch.full((12, 12), float("-inf")).triu(1)[None, None]
    theirs, _ = peer.model.layers[3].self_attn(x, None, mask)
    attention = twin(peer).blocks[3].attention
    assert_close(attention(x, attention.context(torch.arange(12)[None])), theirs, atol=1e-5, rtol=0)
    assert [type(step) for step in attention.qk_steps] == [QueryTemperature]
    attention.qk_steps = nn.ModuleList()
    assert not torch.allclose(attention(x, attention.context(torch.arange(12)[None])), theirs, atol=1e-3)


LLAMA_PARTS = {
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
    "": "",
}
PARTS = {
    "gpt2": {"attention_norm": "ln_1", "attention": "attn", "feed_forward_norm": "ln_2", "feed_forward": "mlp", "": ""},
    "llama": LLAMA_PARTS,
    "llama4_text": {**LLAMA_PARTS, "feed_forward": "feed_forward"},
    **more_models.PARTS,
}
for kin in (
    "mistral",
    "ministral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "smollm3",
    "granite",
    "arcee",
    "ernie4_5",
    "helium",
):
    PARTS[kin] = LLAMA_PARTS
# a shared expert, and Granite 4's feed-forward, stand beside what transformers calls a part
WITHOUT_FEED_FORWARD = {ours: theirs for ours, theirs in LLAMA_PARTS.items() if ours != "feed_forward"}
for kin in ("granitemoe", "granitemoeshared", "granitemoehybrid"):
    PARTS[kin] = WITHOUT_FEED_FORWARD
for kin in ("olmo2", "olmo3"):
    PARTS[kin] = {
        "attention": "self_attn",
        "attention_post": "post_attention_layernorm",
        "feed_forward": "mlp",
        "feed_forward_post": "post_feedforward_layernorm",
        "": "",
    }


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_every_part_of_every_block(kind):
    peer = MODELS[kind]()
    ours = twin(peer)
    kind = peer.config.model_type
    pairs = [
        (
            f"blocks.{layer}.{our}".rstrip("."),
            f"{more_models.BLOCKS.get(kind, 'model.layers')}.{layer}.{their}",
        )
        for layer in range(len(ours.blocks))
        for our, their in PARTS[kind].items()
    ]
    seen, expected = outputs(ours, [pair[0] for pair in pairs]), outputs(peer, [pair[1].rstrip(".") for pair in pairs])
    ours(tokens())
    peer(tokens())
    for our, their in pairs:
        assert_close(
            seen[our],
            expected[their.rstrip(".")].view_as(seen[our]),
            atol=1e-4,
            rtol=1e-4,  # inside Gemma some numbers are near 100
            msg=lambda text, our=our: f"{our}: {text}",
        )


def outputs(model: nn.Module, parts: list[str]) -> dict[str, Tensor]:
    """A dict that fills with the outputs of these parts in the next forward."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for part in parts:
        model.get_submodule(part).register_forward_hook(keep(part))
    return found
