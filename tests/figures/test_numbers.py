"""The numbers in the pictures, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from luthier.architectures import registry
from luthier.figures.activations import gelu, swiglu
from luthier.figures.attention import attention, grouped_queries, heads, influence, weights_of
from luthier.figures.cache import cache
from luthier.figures.embeddings import embeddings, kind_of, two_dimensions
from luthier.figures.experts import experts, routes
from luthier.figures.gradients import course_gradients, measure_gpt2, without_shortcuts
from luthier.figures.models import LONGER, entering
from luthier.figures.normalization import TOKENS, layernorm, rmsnorm
from luthier.figures.positions import likeness, positions, rotary, sinusoidal
from luthier.figures.sampling import TOP_K, TOP_P, filters, next_logits, temperature
from luthier.figures.training import STEPS, schedules, training
from luthier.run.json_lines import read_lines


def test_layer_norm(models):
    table = layernorm(models).table
    assert table["mean_after"] == pytest.approx([0] * len(table["token"]), abs=1e-5)
    assert table["variance_after"] == pytest.approx([v / (v + 1e-5) for v in table["variance_before"]], rel=1e-4)
    assert max(table["variance_after"]) == pytest.approx(1, abs=1e-2)
    lm = models.gpt2
    [x] = entering([lm.model.layers[1].attention_norm], lm, models.ids(lm, TOKENS, models.text + LONGER))
    assert table["mean_before"] == pytest.approx(x.mean(1).tolist())
    assert table["variance_before"] == pytest.approx(((x - x.mean(1, keepdim=True)) ** 2).mean(1).tolist(), rel=1e-4)


def test_rms_norm(models):
    table = rmsnorm(models).table
    shrunk = [math.sqrt(size**2 + 1e-5) for size in table["rms_before"]]
    assert table["rms_rms_norm"] == pytest.approx(
        [size / root for size, root in zip(table["rms_before"], shrunk, strict=True)], rel=1e-4
    )
    assert table["mean_layer_norm"] == pytest.approx([0] * len(table["token"]), abs=1e-5)
    expected = [mean / root for mean, root in zip(table["mean_before"], shrunk, strict=True)]
    assert table["mean_rms_norm"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_gelu_and_its_derivative(models):
    table = gelu(models).table
    for x, y, slope in zip(table["x"], table["gelu"], table["gelu_derivative"], strict=True):
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        assert y == pytest.approx(0.5 * x * (1 + math.tanh(inner)), abs=1e-12)
        rise = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        assert slope == pytest.approx(0.5 * (1 + math.tanh(inner)) + 0.5 * x * rise / math.cosh(inner) ** 2, abs=1e-12)
    assert table["relu"] == [max(x, 0) for x in table["x"]]
    assert table["relu_derivative"] == [float(x > 0) for x in table["x"]]


def test_swiglu(models):
    table = swiglu(models).table
    for gate, value, out in zip(table["gate"], table["value"], table["out"], strict=True):
        assert out == pytest.approx(gate / (1 + math.exp(-gate)) * value, abs=1e-12)


def test_the_courses_gradients():
    """The figures that the course prints for seed 123."""
    without, with_them = course_gradients(shortcuts=False), course_gradients(shortcuts=True)
    assert without == pytest.approx([2.0174e-4, 1.2011e-4, 7.1520e-4, 1.39887e-3, 5.04965e-3], rel=1e-3)
    assert with_them == pytest.approx([0.221698, 0.206941, 0.328970, 0.266573, 1.325854], rel=1e-4)


def test_the_courses_weights_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    course_gradients(shortcuts=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_take_the_shortcuts_out():
    model = registry.build("gpt2-nano", dtype=torch.float64)
    ids = torch.arange(12)[None]
    places = torch.arange(12)[None]
    with torch.no_grad():
        whole = model(ids)
        with without_shortcuts(model):
            cut = model.hidden(ids)
        x = model.embedding(ids) + model.position_embedding(places)
        for block in model.layers:
            x = block.attention(block.attention_norm(x), block.attention.context(places))
            x = block.feed_forward(block.feed_forward_norm(x))
        torch.testing.assert_close(cut, model.norm(x), rtol=1e-7, atol=1e-9)
        assert torch.equal(model(ids), whole)


def test_without_shortcuts_all_tokens_become_alike():
    with_them, without = (measure_gpt2(shortcuts=way, n_layers=8, dim=48) for way in (True, False))
    assert len(with_them.gradients) == len(without.gradients) == 8
    assert min(with_them.gradients) > 0
    assert without.alike[-1] > 0.95 > 0.6 > with_them.alike[-1]


def test_sinusoids_are_those_of_the_paper():
    table = sinusoidal(7, 6)
    for position in range(7):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert table[position, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(
                [math.sin(angle), math.cos(angle)], abs=1e-6
            )


def test_rotary_scores_know_only_the_distance(models):
    turned, scores = rotary(20, 8)
    for i in range(20):
        for j in range(20):
            expected = sum(math.cos((i - j) / 10_000 ** (2 * pair / 8)) for pair in range(4)) / 4
            assert float(scores[i, j]) == pytest.approx(expected, abs=1e-5)
    assert turned.square().sum(1).tolist() == pytest.approx([8.0] * 20, rel=1e-5)
    table = positions(models).table
    learned = models.gpt2.model.position_embedding.weight.detach()
    at = list(zip(table["first"], table["second"], strict=True)).index((3, 5))
    assert table["learned"][at] == pytest.approx(float(F.cosine_similarity(learned[3], learned[5], dim=0)), abs=1e-6)
    assert table["rotary"][at] == pytest.approx(float(rotary(64, 64)[1][3, 5]))
    assert likeness(learned).diagonal().tolist() == pytest.approx([1.0] * len(learned), abs=1e-5)


@pytest.mark.parametrize("preset", ["gpt2-nano", "llama-nano", "llama4-nano"])
def test_attention_weights_are_those_that_the_model_mixes_by(preset):
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4}
    changes = {**sizes, "attention_chunk": 4} if preset.startswith("llama4") else sizes
    model = registry.build(registry.preset(preset, **changes)).eval()
    x = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    for block in model.layers:
        layer = block.attention
        with torch.no_grad():
            weights = weights_of(layer, x)
            values = layer.value(x).view(10, layer.n_kv_heads, -1).transpose(0, 1)
            mixed = weights @ values.repeat_interleave(layer.n_heads // layer.n_kv_heads, 0)
            expected = layer(x[None], layer.context(torch.arange(10)[None]))[0]
            torch.testing.assert_close(layer.output(mixed.transpose(0, 1).flatten(1)), expected, atol=1e-5, rtol=1e-4)
        assert bool((weights.triu(1) == 0).all())


def test_attention_pictures(models):
    for picture, columns in ((attention(models), 4), (heads(models), 2)):
        names = list(picture.table)[4:]
        assert len(names) == columns
        size = math.isqrt(len(picture.table["query"]))
        for name in names:
            weights = torch.tensor(picture.table[name]).view(size, size)
            assert weights.sum(1).tolist() == pytest.approx([1.0] * size, abs=1e-5)
            hidden = bool((weights.triu(1) == 0).all())
            assert hidden == (name not in ("without_weights", "with_weights"))


@pytest.mark.parametrize("n_kv_heads", [8, 4, 2, 1])
def test_a_key_head_changes_its_own_group_only(n_kv_heads):
    changes = influence(8, n_kv_heads)
    own = torch.arange(8)[:, None] // (8 // n_kv_heads) == torch.arange(n_kv_heads)
    assert torch.equal(changes > 1e-4, own)
    assert torch.equal(changes[~own], torch.zeros_like(changes[~own]))


def test_grouped_queries_table(models):
    table = grouped_queries(models).table
    assert [table["kind"].count(kind) for kind in ("multi_head", "grouped", "multi_query")] == [64, 16, 8]


def test_experts_are_those_that_the_layer_chooses(models):
    lm, table = models.llama4, experts(models).table
    ids = models.ids(lm, 512, models.text + LONGER)
    layers, chosen = routes(lm, ids)
    assert layers == [1, 2]
    for number, row in zip(layers, chosen, strict=True):
        moe = lm.model.layers[number - 1].feed_forward
        with torch.no_grad():
            router_says = moe.router(entering([moe], lm, ids)[0]).logits.argmax(-1)
        assert torch.equal(row, router_says)
        assert table[f"layer_{number}"] == (router_says + 1).tolist()


def test_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 5, generator=generator) * torch.tensor([5.0, 1.0, 3.0, 0.5, 0.1]) + 7
    places, shares = two_dimensions(vectors)
    centered = (vectors - vectors.mean(0)).double()
    _, sizes, directions = torch.linalg.svd(centered, full_matrices=False)
    torch.testing.assert_close(places.abs(), (centered @ directions[:2].T).abs(), atol=1e-6, rtol=1e-6)
    assert shares == pytest.approx((sizes[:2] ** 2 / (sizes**2).sum()).tolist())


def test_embeddings_are_those_of_the_model(models):
    table, lm = embeddings(models).table, models.gpt2
    places, _ = two_dimensions(lm.model.embedding.weight.detach())
    assert table["first"] == places[:, 0].tolist()
    assert len(table["id"]) == lm.tokenizer.vocab_size
    assert [kind_of(piece) for piece in (b" the", b"The", b"ing", b"12", b" (", b"\xc3", b" ")] == [
        "begins a word", "begins a word", "goes on with a word", "number", "sign", "byte or mixed", "byte or mixed",
    ]  # fmt: skip


def test_temperature(models):
    table, logits = temperature(models).table, next_logits(models)[0]
    for value in (0.1, 1.0, 5.0):
        expected = (logits / value).softmax(0)[table["id"]].tolist()
        assert table[f"temperature_{value:g}"] == pytest.approx(expected, rel=1e-5)
    assert table["temperature_1"] == sorted(table["temperature_1"], reverse=True)


def test_filters(models):
    table, logits = filters(models).table, next_logits(models)[0]
    probabilities = logits.softmax(0)[table["id"]]
    assert table["all"] == pytest.approx(probabilities.tolist(), rel=1e-5)
    kept = probabilities[:TOP_K] / probabilities[:TOP_K].sum()
    assert table["top_k"] == pytest.approx([*kept.tolist(), *[0] * (len(table["id"]) - TOP_K)], rel=1e-5)
    ordered = logits.softmax(0).sort(descending=True).values
    count = int((ordered.cumsum(0) < TOP_P).sum()) + 1
    expected = (ordered / ordered[:count].sum())[: len(table["id"])]
    expected[count:] = 0
    assert table["top_p"] == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_cache_holds_keys_and_values(models):
    table = cache(models, lengths=(4, 8, 16)).table
    for name, key_heads in (("MHA", 4), ("GQA", 2), ("MQA", 1)):  # 4 layers, heads of 32, 4 bytes
        assert table[f"bytes_{name}"] == [2 * 4 * key_heads * 32 * 4 * tokens for tokens in (4, 8, 16)]
    assert min(table["seconds_with_cache"] + table["seconds_without_cache"]) > 0


def test_schedules(models):
    table = schedules(models).table
    assert len(table["step"]) == STEPS
    for name in ("constant", "cosine", "linear", "wsd"):
        assert table[name][:50] == pytest.approx([1e-3 * (step + 1) / 50 for step in range(50)])
    assert set(table["constant"][50:]) == {1e-3}
    assert table["wsd"][799] == pytest.approx(1e-3)
    assert table["wsd"][900] < 0.6e-3
    half = (50 + 999) / 2
    assert table["linear"][int(half)] == pytest.approx(0.55e-3, rel=1e-2)
    assert table["cosine"][int(half)] == pytest.approx(0.55e-3, rel=1e-2)
    assert [table[name][-1] for name in ("cosine", "linear", "wsd")] == pytest.approx([1e-4] * 3)


def test_training_is_what_the_run_logged(models):
    table, looks = training(models).table, read_lines(models.trained("gpt2-nano") / "metrics.jsonl")
    assert table["step"] == [0, 2, 4, 6]
    assert table["validation_loss"] == [look["validation_loss"] for look in looks]
    assert table["validation_perplexity"] == pytest.approx([look["perplexity"] for look in looks])
