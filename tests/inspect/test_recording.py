"""What is recorded is what happens, and what transformers says happens."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from luthier.architectures import gpt2, granite_moe, llama, llama4, olmo
from luthier.architectures.registry import build
from luthier.errors import LuthierError, UsageError
from luthier.inspect import record, replace
from luthier.model.moe import MoE

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
CONFIGS = {
    "gpt2": gpt2.Config(vocab_size=61, context_length=32, dim=32, n_layers=2, n_heads=4, dropout=0.2),
    "llama": llama.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2, tie_embeddings=True),
    "llama4": llama4.Config(
        vocab_size=61, context_length=32, dim=32, hidden_dim=24, dense_hidden_dim=40, n_layers=4, n_heads=4,
        n_kv_heads=2, head_dim=12, n_experts=4, experts_per_token=2, moe_every=2, attention_chunk=5,
        temperature_floor=4, temperature_scale=0.7,
    ),
    "olmo": olmo.Config(61, 32, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2, window=5, global_layers=(1,)),
    "granitemoe": granite_moe.Config(
        61, 32, 32, 24, n_layers=2, n_heads=4, n_kv_heads=2, n_experts=4, experts_per_token=2, shared_dim=16,
        embedding_multiplier=2.0, attention_multiplier=0.4,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request):
    model = build(CONFIGS[request.param], seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            fan_in = 1 if weight.ndim == 1 else weight.shape[-2] if weight.ndim == 3 else weight.shape[-1]
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.3 if weight.ndim == 1 else fan_in**-0.5))
    return model.requires_grad_(False)


def ids(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(2))


def test_the_parts_add_up_to_what_the_model_says(model):
    found = record(model, ids())
    assert_close(found.logits, model(ids()), **CLOSE)  # which takes the fused kernel
    assert torch.equal(found.normed, model.norm(found.residual[-1]))
    assert torch.equal(found.logits, model.output(found.normed))
    assert len(found.layers) == len(model.blocks)
    for before, layer in zip(found.residual, found.layers, strict=False):
        assert torch.equal(layer.after_attention, before + layer.attention_added)
        assert torch.equal(layer.after_feed_forward, layer.after_attention + layer.feed_forward_added)


def test_the_heads_are_the_weights_times_the_values(model):
    found = record(model, ids())
    for before, layer, block in zip(found.residual, found.layers, model.layers, strict=False):
        B, H, T, _ = layer.attention_weights.shape
        assert (B, H, T) == (2, 4, 12)
        values = block.attention.value(block.attention_norm(before)).view(B, T, -1, block.attention.head_dim)
        values = values.repeat_interleave(H // block.attention.n_kv_heads, dim=2)
        assert_close(layer.heads, torch.einsum("bhts,bshd->bthd", layer.attention_weights, values), **CLOSE)
        written = block.attention_post(block.attention.output(layer.heads.flatten(2)))
        assert_close(written, layer.attention_added, **CLOSE)
        assert_close(layer.attention_weights.sum(-1), torch.ones(B, H, T))
        assert not layer.attention_weights.triu(1).any()


def test_padding_is_never_looked_at_nor_counted(model):
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, :4] = False
    found = record(model, ids(), valid)
    alone = record(model, ids()[1:, 4:])
    for padded, plain in zip(found.layers, alone.layers, strict=True):
        assert not padded.attention_weights[1, :, 4:, :4].any()
        assert_close(padded.attention_weights[1:, :, 4:, 4:], plain.attention_weights, **CLOSE)
        assert_close(padded.after_feed_forward[1:, 4:], plain.after_feed_forward, **CLOSE)
        if padded.routing is not None:
            assert padded.routing.load.sum() == 2 * (12 + 8)


def test_routing_is_that_of_the_layer(model):
    for layer, block in zip(record(model, ids()).layers, model.layers, strict=True):
        assert (layer.routing is not None) == isinstance(block.feed_forward, MoE)
        if layer.routing is not None:
            moe, seen = block.feed_forward, block.feed_forward_norm(layer.after_attention)
            assert_close(layer.routing.logits.flatten(0, 1), moe.router(seen.flatten(0, 1)).logits)
            assert layer.routing.chosen.shape == layer.routing.scores.shape == (2, 12, 2)
            assert torch.equal(layer.routing.load, layer.routing.chosen.flatten().bincount(minlength=4))
            by_hand = torch.zeros_like(layer.feed_forward_added)
            gate, up = moe.experts.gate_up.chunk(2, dim=-1)
            for e in range(4):
                score = (layer.routing.scores * (layer.routing.chosen == e)).sum(-1, keepdim=True)
                x, weight = (score * seen, 1) if moe.weights_on == "input" else (seen, score)
                inner = torch.nn.functional.silu(x @ gate[e]) * (x @ up[e])
                by_hand += weight * (inner @ moe.experts.down[e])
            added = block.feed_forward_post(moe.shared(seen) + by_hand)
            assert_close(layer.feed_forward_added, added, **CLOSE)


def test_a_model_in_training_is_read_without_dropout_and_left_as_it_was(model):
    quiet = record(model, ids())
    model.train()
    model.norm.eval()
    try:
        found = record(model, ids())
        assert model.training
        assert model.blocks[0].training
        assert not model.norm.training
    finally:
        model.eval()
    assert torch.equal(found.logits, quiet.logits)
    hooks = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []


def test_hooks_go_when_the_model_fails(model):
    with pytest.raises(UsageError), replace(model, 1, "heads", lambda x: x[0]):
        record(model, ids())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_tokens_that_are_not_there_are_one_line(model):
    with pytest.raises(LuthierError, match="token 1000 is outside the model's vocabulary of 61"):
        record(model, torch.full((1, 4), 1000))
    with pytest.raises(LuthierError, match="no tokens to inspect"):
        record(model, torch.empty(1, 0, dtype=torch.long))


def test_bfloat16_models_have_weights_in_float32(model):
    half = build(CONFIGS["llama"], seed=0).bfloat16()
    found = record(half, ids())
    assert found.logits.dtype == found.layers[0].heads.dtype == torch.bfloat16
    assert found.layers[0].attention_weights.dtype == torch.float32
    assert_close(found.layers[0].attention_weights.sum(-1), torch.ones(2, 4, 12))


@torch.no_grad()
def test_a_compiled_model_is_recorded_too():
    model = build(CONFIGS["llama"], seed=0).eval()
    plain = record(model, ids())
    model.compile_blocks(backend="eager")
    model(ids())  # compiled now, without hooks
    found = record(model, ids())
    for ours, theirs in zip(found.layers, plain.layers, strict=True):
        assert_close(ours.attention_weights, theirs.attention_weights, **CLOSE)


@pytest.mark.parametrize(
    "kind",
    [
        "gpt2",
        "llama 2",
        "llama 3.1",
        "llama with wide heads",
        "llama 4",
        "llama 4, own layers",
        "gemma 2",
        "gpt-neox",
        "gpt-oss",
        "deepseek-v3",
    ],
)
def test_attention_and_hidden_states_are_those_of_transformers(kind):
    pytest.importorskip("transformers")
    from parity.peers import MODELS, tokens, twin

    peer = MODELS[kind]()
    peer.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = peer(tokens(), output_attentions=True, output_hidden_states=True)
    found = record(twin(peer), tokens())
    assert len(theirs.attentions) == len(found.layers)
    for layer, weights in zip(found.layers, theirs.attentions, strict=True):
        assert_close(layer.attention_weights, weights, **CLOSE)
    *streams, last = theirs.hidden_states  # their last one has been through the final norm
    for ours, stream in zip(found.residual, streams, strict=False):
        assert_close(ours, stream, atol=1e-4, rtol=1e-4)
    assert_close(found.normed, last, atol=1e-4, rtol=1e-4)
    assert max(float(weights.max()) for weights in theirs.attentions) > 0.5  # not all alike
