"""Settings of Meta, OpenAI and the book with anything in them: a Config, or an error that names the file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.architectures import llama, llama4, registry
from luthier.architectures.family import Config
from luthier.errors import LuthierError
from luthier.model.rope_scaling import RopeScaling
from luthier.model_files import book, meta, openai

fuzz = settings(max_examples=300, deadline=None, derandomize=True, database=None)
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 2**70) | st.text(max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def written(config: Config) -> dict[str, Any]:
    return registry.format_spec(config, "meta").settings.write(config)


LLAMA = written(llama.Config(31, 16, 8, 12, 2, 2, 1, rope_scaling=RopeScaling()))
LLAMA4 = written(llama4.Config(31, 16, 8, 8, 12, 4, 2, 1, n_experts=2, moe_layers=(0,)))
HPARAMS = {"n_vocab": 31, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}
SHAPES = {"tok_emb.weight": (31, 128), "pos_emb.weight": (16, 128), "trf_blocks.0.norm1.scale": (128,)}
READERS = {
    "llama": (LLAMA, lambda values: meta.read_config(values, vocab_size=31, tied=False)),
    "llama4": (LLAMA4, lambda values: meta.read_config(values, vocab_size=31, tied=False)),
    "openai": (HPARAMS, openai.SPEC.settings.read),
    "book": (
        {"n_heads": 2, "drop_rate": 0.1},
        lambda values: book.read_config(SHAPES, values, tied=False, file="model.json"),
    ),
}


def change(values: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """One or two of the values, at any depth, become anything."""
    changed = dict(values)
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2, unique=True)):
        value = changed[key]
        deeper = isinstance(value, dict) and value and data.draw(st.booleans())
        changed[key] = change(value, data) if deeper else data.draw(anything)
    return changed


@pytest.mark.filterwarnings("ignore::luthier.errors.Remark")
@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@fuzz
def test_any_settings_give_a_config_or_an_error_that_names_the_file(kind, data):
    values, read = READERS[kind]
    complaint, config = "", None
    try:
        config = read(change(values, data))
    except LuthierError as error:
        complaint = str(error)
    if config is None:
        assert ".json: " in complaint
        return
    sizes = [getattr(config, name) for name in ("dim", "n_heads", "n_layers", "vocab_size")]
    assert all(isinstance(size, int) and 1 <= size <= 2**20 for size in sizes)
    assert isinstance(config, Config)


@pytest.mark.parametrize("kind", READERS)
def test_settings_that_nobody_touched_are_read(kind):
    values, read = READERS[kind]
    assert read(values).n_heads == 2
