"""The published sizes, counted without memory, and the small ones for a CPU."""

from __future__ import annotations

import time
import tomllib
from dataclasses import replace

import llama_kin_sizes
import more_sizes
import pytest
import torch

from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.registry import (
    FAMILIES,
    build,
    build_on_meta,
    count_parameters,
    family_of,
    name_of,
    preset,
    presets,
)
from luthier.config import from_table, to_table, toml_text
from luthier.errors import UsageError
from luthier.model.mask import Chunked, causal
from luthier.model.moe import MoE
from luthier.model.rope import QueryTemperature, Rope, UnitQKNorm

PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
    "gpt2-course": 163_009_536,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    **llama_kin_sizes.DENSE,
    **more_sizes.DENSE,
}
MIXTURES = {**llama_kin_sizes.MIXTURES, **more_sizes.MIXTURES}
SMALL = ("nano", "micro", "mini")


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_presets_have_exactly_the_published_parameters(name: str) -> None:
    assert count_parameters(preset(name)) == (PUBLISHED[name], PUBLISHED[name])


@pytest.mark.parametrize(
    ("name", "total", "active"), [("llama4-scout", 107.77, 17.17), ("llama4-maverick", 400.71, 17.18)]
)
def test_llama_4_has_the_published_parameters_all_and_active(name: str, total: float, active: float) -> None:
    counted = count_parameters(preset(name))
    assert [round(number / 1e9, 2) for number in counted] == [total, active]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_have_exactly_the_published_parameters_all_and_active(name: str) -> None:
    assert count_parameters(preset(name)) == MIXTURES[name]


def test_every_preset_is_counted_here() -> None:
    small = {f"{name}-{size}" for name in FAMILIES for size in SMALL}
    assert set(presets()) == {*PUBLISHED, "llama4-scout", "llama4-maverick", *MIXTURES, *small}


def test_every_preset_comes_back_from_toml() -> None:
    for name, config in presets().items():
        assert from_table(type(config), tomllib.loads(toml_text(to_table(config))), name) == config


def test_counting_the_largest_presets_takes_no_time() -> None:
    count_parameters(preset("gpt2-nano"))  # what torch loads at its first use of meta is not counting
    start = time.process_time()
    largest = ("llama3.1-405b", "qwen3-235b-a22b", "gpt2-1558m")
    for name in largest:
        count_parameters(preset(name))
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_small_presets_are_for_a_cpu(architecture: str, size: str) -> None:
    total, active = count_parameters(preset(f"{architecture}-{size}"))
    assert 500_000 < total < 16_000_000
    assert (active < total) == (getattr(preset(f"{architecture}-{size}"), "n_experts", None) is not None)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_small_presets_grow_from_nano_to_mini(architecture: str) -> None:
    totals = [count_parameters(preset(f"{architecture}-{size}"))[0] for size in SMALL]
    assert totals == sorted(totals)


def test_the_block_of_the_course_has_the_parameters_that_the_course_counts() -> None:
    model = build_on_meta(preset("gpt2-course"))
    block = model.blocks[0]

    def count(*parts: torch.nn.Module) -> int:
        return sum(weight.numel() for part in parts for weight in part.parameters())

    assert count(block) == 7_085_568
    assert count(block.attention) == 2_360_064
    assert count(block.feed_forward) == 4_722_432
    assert count(block.attention_norm, block.feed_forward_norm) == 3_072
    assert count(model) - count(model.output) == 124_412_160


def test_a_preset_can_be_changed_and_knows_its_architecture() -> None:
    config = preset("llama-nano", vocab_size=77)
    assert config == replace(presets()["llama-nano"], vocab_size=77)
    for name, config in presets().items():
        assert FAMILIES[name_of(config)].sizes[name] is config
        assert family_of(config).config is type(config)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("gpt2-124", "gpt2-124m"), ("lama3-8b", "llama3-8b"), ("llama4-scot", "llama4-scout")]
)
def test_an_unknown_preset_names_the_nearest_and_all(wrong: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(wrong)
    assert f"no preset '{wrong}'" in str(caught.value)
    assert f"did you mean '{nearest}'?" in str(caught.value)
    assert all(name in str(caught.value) for name in presets())


def test_a_name_like_no_preset_gets_no_guess() -> None:
    with pytest.raises(UsageError, match=r"no preset 'zzz'\. There are gpt2-124m, "):
        preset("zzz")


def test_a_config_of_no_architecture_is_an_error() -> None:
    with pytest.raises(UsageError, match="int is no architecture's config"):
        name_of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (gpt2.Config(dim=100, n_heads=3), "dim 100 does not divide into n_heads 3: take a multiple of 3"),
        (llama.Config(dim=96, n_heads=6, n_kv_heads=4), "n_heads 6 is not a multiple of n_kv_heads 4"),
        (llama.Config(dim=15, n_heads=3, n_kv_heads=3), "head_dim 5 "),
        (llama4.Config(experts_per_token=17), "experts_per_token 17 must lie between 1 and n_experts 16"),
        (gpt2.Config(n_layers=0), "n_layers 0 must be at least 1"),
        (gpt2.Config(n_heads=0), "n_heads 0 must be at least 1"),
        (llama.Config(n_kv_heads=0), "n_kv_heads 0 must be at least 1"),
        (llama4.Config(moe_every=0), "moe_every 0 must be at least 1"),
        (llama4.Config(attention_chunk=-4), "attention_chunk -4 must be at least 1"),
        (gpt2.Config(dropout=1.0), "dropout 1.0 must be at least 0 and less than 1"),
    ],
)
def test_a_size_that_cannot_be_is_one_clear_error(config: gpt2.Config, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_on_meta(config)


def test_llama_4_puts_experts_and_positions_on_the_published_layers() -> None:
    scout, maverick = build_on_meta(preset("llama4-scout")), build_on_meta(preset("llama4-maverick"))
    assert all(isinstance(block.feed_forward, MoE) for block in scout.blocks)
    experts = [layer for layer, block in enumerate(maverick.blocks) if isinstance(block.feed_forward, MoE)]
    assert experts == list(range(1, 48, 2))
    for model, normed in ((scout, True), (maverick, False)):
        for layer, block in enumerate(model.layers):
            steps = [type(step) for step in block.attention.qk_steps]
            if layer % 4 == 3:
                assert block.attention.mask == causal
                assert steps == [QueryTemperature]
            else:
                assert block.attention.mask == Chunked(8192)
                assert steps == ([Rope, UnitQKNorm] if normed else [Rope])


def test_llama_4_layers_can_be_named_one_by_one() -> None:
    config = preset("llama4-nano", moe_layers=(0, 3), global_layers=(1,), temperature_tuning=False)
    model = build_on_meta(config)
    assert [isinstance(block.feed_forward, MoE) for block in model.blocks] == [True, False, False, True]
    assert [len(block.attention.qk_steps) for block in model.layers] == [2, 0, 2, 2]
    assert [block.attention.mask == causal for block in model.layers] == [False, True, False, False]
    none = build_on_meta(replace(config, moe_layers=()))
    assert not any(isinstance(block.feed_forward, MoE) for block in none.blocks)
