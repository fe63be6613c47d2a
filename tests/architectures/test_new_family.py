"""A family of one's own, outside the package: it is registered, and everything else finds it (CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import luthier
from luthier.architectures import config_json, llama, llama_like_names, llama_like_settings, registry
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, HUGGING_FACE
from luthier.architectures.settings import Fixed, SettingList, head_dim
from luthier.errors import LuthierError, UsageError
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.inspect.recording import record
from luthier.model.attention import Attention
from luthier.model.feed_forward import SquaredReLUFeedForward
from luthier.model.norm import UnitNorm
from luthier.model.rope import UnitQKNorm, rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Norms without weights, rotary positions on even layers only, squared ReLU, QK norm."""

    vocab_size: int = 512
    context_length: int = 64
    dim: int = 32
    hidden_dim: int = 64
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int | None = None
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = True
    dropout: float = 0.0


def build(config: Config) -> Transformer:
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        UnitNorm(config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    positions = () if layer % 2 else (rope(head_dim(config), config.rope_theta, config.rope_scaling),)
    steps = (*positions, UnitQKNorm(config.norm_eps))
    return Block(
        UnitNorm(config.norm_eps),
        Attention(config.dim, config.n_heads, config.n_kv_heads, config.head_dim, qk_steps=steps),
        UnitNorm(config.norm_eps),
        SquaredReLUFeedForward(config.dim, config.hidden_dim, bias=False),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def tensors(config: Config) -> Table:
    block = [
        *llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads),
        Rule(HUGGING_FACE + "mlp.up_proj.weight", BLOCK + "feed_forward.up.weight"),
        Rule(HUGGING_FACE + "mlp.down_proj.weight", BLOCK + "feed_forward.down.weight"),
    ]
    layers = each_layer(range(config.n_layers), block)
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings, norm=False)


SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "ToyForCausalLM",
    "toy",
    *llama_like_settings.hugging_face(eps=1e-6, tied=True, activation=Fixed("hidden_act", "relu2")),
)
FORMAT = FormatSpec(tensors, SETTINGS, {"ToyForCausalLM": "toy"})
FAMILY = Family("toy", Config, {"toy-nano": Config()}, build, initialize, {"hf": FORMAT})


@pytest.fixture
def toy() -> Iterator[Family[Config]]:
    """The family, known while a test runs."""
    registry.register(FAMILY)
    yield FAMILY
    del registry.FAMILIES[FAMILY.name]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a sentence to learn, and a number after it: 12345\n" * 60)
    return path


@pytest.mark.usefixtures("toy")
def test_a_new_family_is_trained_written_opened_and_inspected(tmp_path, text):
    run = luthier.train(
        [str(text)], out=tmp_path / "run", preset="toy-nano", tokenizer="characters", steps=1, batch_size=2
    )
    lm = luthier.load(str(run.folder))
    assert type(lm.config) is Config
    assert registry.name_of(lm.config) == "toy"
    assert lm.generate("a ", max_new_tokens=3)

    luthier.convert(str(run.folder), tmp_path / "hf", "hf")
    again = luthier.load(str(tmp_path / "hf"))
    assert again.config == lm.config
    ids = torch.tensor([lm.tokenizer.encode("a number")])
    with torch.inference_mode():
        assert torch.equal(again.model(ids), lm.model(ids))

    assert len(record(again.model, ids).layers) == again.config.n_layers
    with pytest.raises(UsageError, match=r"the format gguf is for gpt2, .* and deepseek, not for toy"):
        luthier.convert(str(run.folder), tmp_path / "toy.gguf", "gguf")


@pytest.mark.usefixtures("toy")
def test_steps_lower_the_loss_and_reach_every_weight():
    model = registry.build("toy-nano").train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.arange(32)[None]
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert not any(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "llama"}, "the family 'llama' has the name 'llama' already"),
        ({"sizes": {"gpt2-nano": Config()}}, "the family 'gpt2' has the preset 'gpt2-nano' already"),
        ({"config": llama.Config}, "the family 'llama' has the class .*llama.Config already"),
        ({"formats": {"hf": replace(FORMAT, classes={"ToyForCausalLM": "qwen2"})}}, "has the model_type 'qwen2'"),
        ({"formats": {"gguf": FORMAT}}, "the family 'toy' has no format 'hf'"),
    ],
)
def test_a_family_that_hides_another_is_declined(change, message):
    with pytest.raises(UsageError, match=message):
        registry.register(replace(FAMILY, **change))
    assert "toy" not in registry.FAMILIES


def less_a_rule(config: Config) -> Table:
    table = tensors(config)
    return replace(table, rules=table.rules[:-1])


def with_a_norm(config: Config) -> Table:
    table = tensors(config)
    return replace(table, rules=[*table.rules, Rule("model.norm.weight", "norm.weight")])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (less_a_rule, "has no rule for blocks.2.feed_forward.down.weight"),
        (with_a_norm, "names what the model does not have: norm.weight"),
    ],
)
def test_a_table_that_is_not_the_models_writes_nothing(tmp_path, wrong, message):
    family = replace(FAMILY, formats={"hf": replace(FORMAT, tensors=wrong)})
    registry.register(family)
    try:
        lm = luthier.LanguageModel(registry.build("toy-nano"), None, Config())
        with pytest.raises(LuthierError, match=message):
            lm.save(tmp_path / "hf")
    finally:
        del registry.FAMILIES["toy"]
    assert not (tmp_path / "hf").exists()
