"""The compiled step computes what the model computes, for all that it takes, and says no to the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_weights import dequantized

from luthier.architectures import gemma3, gpt2, granite, llama, llama4, olmo, qwen2, qwen3, registry, smollm3
from luthier.generation import speculative
from luthier.generation.decoding_session import DecodingSession
from luthier.model.rope_scaling import RopeScaling
from luthier.native import build
from luthier.native.program import native_step
from luthier.quantize.quantize import quantize

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SIZES = {"vocab_size": 128, "context_length": 256, "dim": 128, "n_layers": 2, "n_heads": 4}
YARN = RopeScaling(8.0, original_context_length=16, kind="yarn", attention_factor=1.1, beta_fast=4.0)
CONFIGS = {
    "llama": llama.Config(**SIZES, hidden_dim=192, n_kv_heads=2),
    "llama 3.1": llama.Config(**SIZES, hidden_dim=192, n_kv_heads=1, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)),
    "llama, wide heads": llama.Config(**SIZES, hidden_dim=96, n_kv_heads=4, head_dim=64, tie_embeddings=True),
    "llama, biases, yarn": llama.Config(
        **SIZES, hidden_dim=192, n_kv_heads=2, rope_scaling=YARN, attention_bias=True, mlp_bias=True
    ),
    "gpt2, narrow, scores by layer": gpt2.Config(**SIZES, hidden_dim=192, scale_by_layer=True),
    "gpt2": gpt2.Config(**{**SIZES, "vocab_size": 131}),
    "qwen2": qwen2.Config(**SIZES, hidden_dim=192, n_kv_heads=2, rope_theta=1e4),
    "qwen3": qwen3.Config(**SIZES, hidden_dim=192, n_kv_heads=2, head_dim=64, rope_theta=1e4),
    "smollm3": smollm3.Config(**SIZES, hidden_dim=192, n_kv_heads=2, rope_theta=1e4, nope_layers=(0,)),
    "granite": granite.Config(
        **SIZES,
        hidden_dim=192,
        n_kv_heads=2,
        attention_multiplier=0.3,
        embedding_multiplier=2.5,
        residual_multiplier=0.6,
        logits_scaling=0.4,
    ),
    "olmo": olmo.Config(**SIZES, hidden_dim=192, n_kv_heads=2, rope_theta=1e4),
    "gemma3": gemma3.Config(
        **SIZES, hidden_dim=192, n_kv_heads=2, head_dim=64, window=256, query_scale=40, local_rope_theta=100.0
    ),
    "gpt2-course": gpt2.Config(**SIZES, qkv_bias=False, tie_embeddings=False),
}


# of the spread of logits: both ways round, and where weights are in blocks, each rounds activations to 8 bits
OFF = {"plain": 0.03, "int8": 0.05, "int4": 0.05}


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    try:
        build.library()
    except build.Unavailable as reason:
        pytest.skip(str(reason))


MADE: dict[tuple[str, str], torch.nn.Module] = {}


def lively(name: str, kind: str = "plain"):
    """A model in bfloat16 whose weights show every mistake. Made once."""
    if (name, kind) not in MADE:
        model = registry.build(CONFIGS[name], dtype=torch.bfloat16).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for weight_name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(0.3 * noise)
            else:
                weight.copy_(1.5 * noise * (1 if "embedding" in weight_name else weight.shape[-1] ** -0.5))
        MADE[name, kind] = model if kind == "plain" else quantize(model, kind)
    return MADE[name, kind]


def session(model, texts, *, native=True):
    return DecodingSession(model, texts, 30, vocab_size=model.embedding.num_embeddings, native=native)


@property_test
@given(
    name=st.sampled_from(list(CONFIGS)),
    kind=st.sampled_from(["plain", "int8", "int4"]),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_logits_are_those_of_the_model(name, kind, lengths, seed):
    model = lively(name, kind)
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(128, (n,), generator=generator).tolist() for n in lengths]
    with torch.inference_mode():
        ours, plain = session(model, texts), session(model, texts, native=False)
        assert ours.step is not None
        for _ in range(6):
            found, expected = ours.logits(), plain.logits()
            assert (found - expected).std() < OFF[kind] * expected.std()
            new = torch.randint(128, (len(texts),), generator=generator)
            ours.append(new)
            plain.append(new)


@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_it_is_nearer_to_float32_than_the_model_in_bfloat16(kind):
    model = lively("llama", kind)
    whole = registry.build(CONFIGS["llama"]).eval().requires_grad_(False)
    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            packed = model.get_submodule(name)
            module.weight.data = packed.weight.float() if kind == "plain" else dequantized(packed)
    for name, weight in model.named_parameters():
        whole.get_parameter(name).data = weight.float()
    text = torch.randint(128, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    errors = {}
    with torch.inference_mode():
        for native in (True, False):
            some = session(model, [text[:1]], native=native)
            some.logits()
            off = []
            for i in range(1, 30):
                some.append(torch.tensor([text[i]]))
                off.append(some.logits() - whole(torch.tensor([text[: i + 1]]))[:, -1])
            errors[native] = float(torch.cat(off).std())
    assert errors[True] < 1.05 * errors[False]


@property_test
@given(name=st.sampled_from(list(CONFIGS)), kind=st.sampled_from(["plain", "int8", "int4"]), rows=st.integers(2, 9))
def test_a_row_is_the_same_alone_among_others_and_with_more_threads(name, kind, rows):
    model = lively(name, kind)
    generator = torch.Generator().manual_seed(rows)
    texts = torch.randint(128, (rows, 9), generator=generator)
    with torch.inference_mode():
        before = session(model, texts[:, :8].tolist())
        before.logits()
        together = before.step.logits(texts[:, 8:], before.cache, before.padding, 1)
        before.truncate(8)
        for thread_count in (1, 2, 3):
            torch.set_num_threads(thread_count)
            again = before.step.logits(texts[:, 8:], before.cache, before.padding, 1)
            torch.set_num_threads(1)
            before.truncate(8)
            assert again.equal(together)
        for row in range(rows):
            alone = session(model, [texts[row].tolist()])
            alone.cache.layers = [type(layer)(layer.capacity) for layer in before.cache.layers]
            for mine, theirs in zip(alone.cache.layers, before.cache.layers, strict=True):
                mine.capacity, mine.length = theirs.capacity, 8
                mine.buffers = tuple(buffer[row : row + 1].clone() for buffer in theirs.buffers)
            assert alone.logits().equal(together[row])


@settings(property_test, max_examples=30)
@given(
    name=st.sampled_from(list(CONFIGS)),
    kind=st.sampled_from(["plain", "int8", "int4"]),
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    piece=st.sampled_from([40, 64, 512]),
    seed=st.integers(0, 100),
)
def test_prompts_of_any_length_are_read_as_the_model_reads_them(name, kind, lengths, piece, seed):
    model = lively(name, kind)
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(128, (n,), generator=generator).tolist() for n in lengths]
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.generation.decoding_session.PREFILL_CHUNK", piece)
        patch.setattr("luthier.generation.decoding_session.MIN_CHUNK", 20)
        ours, plain = session(model, texts), session(model, texts, native=False)
        for _ in range(2):  # what it left in the cache serves the next token
            found, expected = ours.logits(), plain.logits()
            assert (found - expected).std() < OFF[kind] * expected.std()
            for some in (ours, plain):
                some.append(torch.ones(len(texts), dtype=torch.long))


@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_a_prompt_is_the_same_with_more_threads(kind):
    model = lively("llama", kind)
    text = torch.randint(128, (250,), generator=torch.Generator().manual_seed(3)).tolist()
    found = []
    with torch.inference_mode():
        for thread_count in (1, 2, 3):
            torch.set_num_threads(thread_count)
            found.append(session(model, [text]).last_logits(20))
            torch.set_num_threads(1)
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


@pytest.mark.parametrize("kind", ["plain", "int8", "int4"])
def test_a_token_and_its_guesses_read_at_once_are_those_read_one_by_one(kind):
    model = lively("llama", kind)
    count = 1 + speculative.MAX_DRAFT
    tokens = torch.randint(128, (1, 8 + count), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        some = session(model, [tokens[0, :8].tolist()])
        some.logits()
        at_once = some.step.logits(tokens[:, 8:], some.cache, [0], count)
        some.truncate(8)
        singly = [some.step.logits(tokens[:, i : i + 1], some.cache, [0], 1) for i in range(8, 8 + count)]
    assert at_once.equal(torch.cat(singly, 1))


def test_it_goes_on_after_rows_were_left_out():
    model = lively("gpt2")
    texts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    with torch.inference_mode():
        ours, plain = session(model, texts), session(model, texts, native=False)
        for some in (ours, plain):
            some.logits()
            some.select([2, 0])  # the padding that both have goes with the second text
            some.append(torch.tensor([11, 12]))
        found, expected = ours.logits(), plain.logits()
    assert (found - expected).std() < 0.03 * expected.std()


def test_what_it_does_not_know_is_left_to_the_model():
    experts = llama4.Config(128, 64, 64, 32, 64, 4, 4, 2, None, n_experts=4, moe_every=2, attention_chunk=8)
    assert native_step(registry.build(experts, dtype=torch.bfloat16), 64) is None
    assert native_step(registry.build(CONFIGS["llama"]), 64) is None  # float32
    for scaling in (
        RopeScaling(4.0, original_context_length=8, kind="dynamic"),
        RopeScaling(4.0, kind="longrope", short_factors=(1.0,) * 16, long_factors=(2.0,) * 16),
    ):
        config = llama.Config(**SIZES, hidden_dim=192, n_kv_heads=2, rope_scaling=scaling)
        assert native_step(registry.build(config, dtype=torch.bfloat16), 64) is None, scaling.kind
    for name in ("gemma2", "phi3", "gptneox", "stablelm", "gptj", "gpt-oss", "deepseek", "nanochat"):
        assert native_step(registry.build(f"{name}-nano", dtype=torch.bfloat16), 64) is None, name
    exact = gpt2.Config(**SIZES, exact_gelu=True)
    assert native_step(registry.build(exact, dtype=torch.bfloat16), 64) is None
    odd = llama.Config(128, 64, 48, 96, 1, 4, 2)
    assert native_step(registry.build(odd, dtype=torch.bfloat16), 64) is None
