"""Models in GGUF files: exact round trips, what the files say, and files that fit no model."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from gguf_models import CONFIGS, GPT2, LLAMA, LLAMA4, OURS, STRETCH, VOCAB, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.architectures.gguf_metadata import rope_factors
from luthier.errors import LuthierError, Remark, UsageError
from luthier.formats import gguf_writing
from luthier.formats.gguf_file import GGUFFile
from luthier.model.rope_scaling import RopeScaling
from luthier.model_files import gguf
from luthier.model_files.weights import LoadedModel
from luthier.tokenizers.core.train import train_bpe

CPU = torch.device("cpu")
TOKENS = torch.arange(40)[None]
ALL = {**CONFIGS, **OURS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL)
def test_what_is_written_is_what_is_opened(kind, dtype, tmp_path):
    config = ALL[kind]
    model = random_model(config).to(dtype)
    gguf.write(tmp_path / "a.gguf", LoadedModel(model, config, None))
    assert gguf.recognizes(tmp_path / "a.gguf")
    again, found, tokenizer = gguf.read(tmp_path / "a.gguf", CPU, None)
    assert found == config
    assert tokenizer is None
    weights = model.state_dict()
    assert {weight.dtype for weight in again.state_dict().values()} == {dtype}
    assert all(torch.equal(weight, weights[name]) for name, weight in again.state_dict().items())
    assert torch.equal(again.eval()(TOKENS), model(TOKENS))
    wider = gguf.read(tmp_path / "a.gguf", CPU, torch.float32).model
    assert torch.equal(wider.eval()(TOKENS), model.float()(TOKENS))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama4"])
def test_packed_files_hold_the_model_as_near_as_their_bits_allow(family, kind, tmp_path):
    config = CONFIGS[family]
    model = random_model(config)
    path = tmp_path / "a.gguf"
    gguf.write(path, LoadedModel(model, config, None), quantize=kind)
    found = gguf.read(path, CPU, torch.float32).model.state_dict()
    for name, weight in model.state_dict().items():
        error = (found[name] - weight).square().mean().sqrt() / weight.std()
        whole = weight.ndim == 1 or "router" in name or "position" in name
        assert error == 0 if whole else 0 < error < {"Q8_0": 0.01, "Q4_0": 0.12}[kind], name
    assert gguf.read(path, CPU, None).model.embedding.weight.dtype == torch.bfloat16


def test_what_must_not_be_packed_is_not(tmp_path):
    """Vectors, routers and learned positions stay F32, odd rows F16, and the outer matrices have 8 bits."""
    path = tmp_path / "a.gguf"
    kinds = {}
    for config in (CONFIGS["gpt2-course"], CONFIGS["llama4, two experts a token"]):
        gguf.write(path, LoadedModel(random_model(config), config, None), quantize="q4_0")
        reader = GGUFReader(path)
        kinds |= {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert reader.fields["general.file_type"].contents() == 2
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["position_embd.weight"] == kinds["blk.1.ffn_gate_inp.weight"] == kinds["rope_freqs.weight"] == "F32"
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.attn_qkv.bias"] == "F32"
    assert (
        kinds["blk.0.attn_qkv.weight"]
        == kinds["blk.1.ffn_gate_exps.weight"]
        == kinds["blk.0.ffn_down.weight"]
        == "Q4_0"
    )
    assert kinds["blk.1.ffn_down_exps.weight"] == "F16", "rows of 48"


def test_an_unknown_number_type_is_a_wrong_setting(tmp_path):
    config = CONFIGS["llama"]
    with pytest.raises(UsageError, match="quantize 'Q2' is not supported; there are F32, F16"):
        gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None), quantize="Q2")
    assert list(tmp_path.iterdir()) == []


def test_someone_can_watch(tmp_path):
    config, seen = CONFIGS["llama"], []
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None), lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_a_model_without_biases_gets_zeros_and_comes_back_without(tmp_path):
    config = CONFIGS["gpt2-course"]
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None))
    bias = GGUFFile(tmp_path / "a.gguf").tensor("blk.0.attn_qkv.bias")
    assert bias.shape == (96,)
    assert not bias.any()


def test_the_settings_have_the_names_of_llama_cpp(tmp_path):
    """As its own converter writes them for each family."""
    found = {}
    for kind in ("gpt2", "llama 3.1", "llama4"):
        gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(CONFIGS[kind]), CONFIGS[kind], None))
        found |= GGUFFile(tmp_path / "a.gguf").fields
    expected = {
        "gpt2.context_length": 64,
        "gpt2.feed_forward_length": 128,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10_000.0,
        "llama.rope.dimension_count": 8,
        "llama.vocab_size": VOCAB,
        "llama4.feed_forward_length": 64,
        "llama4.expert_feed_forward_length": 48,
        "llama4.expert_count": 4,
        "llama4.expert_used_count": 1,
        "llama4.interleave_moe_layer_step": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not [name for name in found if ".rope.scaling." in name], "llama.cpp would stretch by those, too"


# files of others


def foreign(path: Path, config, drop: tuple[str, ...] = ("luthier.",), tensors=(), **changes: object) -> Path:
    """A file without our own keys, with settings changed (None: dropped) and tensors added or replaced."""
    gguf.write(path, LoadedModel(random_model(config), config, None))
    file = GGUFFile(path)
    fields = {name: value for name, value in file.fields.items() if not name.startswith(drop)} | changes
    held = {name: file.tensor(name).clone() for name in file.shapes()} | dict(tensors)
    held = {name: tensor for name, tensor in held.items() if tensor is not None}
    layout = {name: ("F32", tuple(tensor.shape)) for name, tensor in held.items()}
    gguf_writing.write(path, {k: v for k, v in fields.items() if v is not None}, layout, held.items())
    return path


def read_config(path: Path):
    return gguf.read(path, CPU, None).config


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama, tied", "llama4"])
def test_files_without_keys_of_ours_are_read_too(kind, tmp_path):
    config = CONFIGS[kind]
    section = registry.name_of(config)
    drop = ("luthier.", f"{section}.vocab_size", f"{section}.attention.key", f"{section}.attention.value")
    drop += (f"{section}.rope.dim", "llama4.attention.sliding", "llama4.attention.temperature", "tokenizer.")
    assert read_config(foreign(tmp_path / "a.gguf", config, drop)) == config


WIDE = {"context_length": 16, "dim": 128, "n_heads": 1, "n_kv_heads": 1}  # a head as wide as Meta's


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        (llama, RopeScaling()),
        (llama, RopeScaling(factor=32.0)),
        (llama4, RopeScaling(16.0, 1.0, 1.0)),
        (llama4, RopeScaling(8.0)),
    ],
)
def test_the_stretch_of_rotary_positions_is_found_from_its_factors(family, scaling, tmp_path):
    base = {**(LLAMA if family is llama else LLAMA4), **WIDE, "rope_theta": 500_000.0}
    config = family.Config(**base, rope_scaling=scaling)
    assert read_config(foreign(tmp_path / "a.gguf", config)) == config


def test_factors_of_1_are_no_stretch(tmp_path):
    config = CONFIGS["llama"]
    path = foreign(tmp_path / "a.gguf", config, tensors={"rope_freqs.weight": torch.ones(4)})
    assert read_config(path) == config


@pytest.mark.parametrize("factors", [[1.0, 2, 3, 4], [2.0, 2, 2, 2], [float("nan")] * 4, [1.0, 1, 8, 8, 8], [0.0] * 4])
def test_a_stretch_that_cannot_be_found_is_refused(factors, tmp_path):
    path = foreign(tmp_path / "a.gguf", CONFIGS["llama"], tensors={"rope_freqs.weight": torch.tensor(factors)})
    with pytest.raises(LuthierError, match=r"'rope_freqs\.weight' is not the RoPE scaling"):
        gguf.read(path, CPU, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"llama.rope.scaling.attn_factor": 1.5}, RopeScaling(1.0, kind="linear", attention_factor=1.5)),
        ({"llama.rope.scaling.factor": 4.0}, RopeScaling(4.0, kind="linear")),
        ({"llama.rope.scale_linear": 4.0}, RopeScaling(4.0, kind="linear")),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, None),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
            RopeScaling(4.0, original_context_length=64, kind="yarn"),
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 16,
                "llama.rope.scaling.yarn_log_multiplier": 1.0,
            },
            RopeScaling(4.0, original_context_length=16, kind="yarn", attention_factor=1.0),
        ),
    ],
)
def test_the_scalings_of_llama_cpp_are_read_from_its_settings(changes, expected, tmp_path):
    assert read_config(foreign(tmp_path / "a.gguf", CONFIGS["llama"], **changes)).rope_scaling == expected


def test_a_setting_of_the_architecture_that_is_not_understood_draws_a_remark(tmp_path):
    path = foreign(tmp_path / "a.gguf", CONFIGS["llama"], **{"llama.attention.temperature": 2.0})
    with pytest.warns(Remark, match=r"'llama\.attention\.temperature' is not understood here"):
        gguf.read(path, CPU, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (llama.Config(**LLAMA, rope_scaling=RopeScaling(4.0, kind="dynamic")), "rope_scaling dynamic of llama"),
        (llama.Config(**LLAMA, rope_scaling=RopeScaling(kind="yarn", truncate=False)), "yarn's truncate"),
        (llama4.Config(**LLAMA4, rope_scaling=OURS["llama, longrope"].rope_scaling), "rope_scaling longrope of llama4"),
        (gpt2.Config(**GPT2, exact_gelu=True), "exact_gelu of gpt2"),
        (gpt2.Config(**GPT2, scale_by_layer=True), "scale_by_layer of gpt2"),
    ],
)
def test_what_the_format_has_no_words_for_is_named_and_nothing_written(config, message, tmp_path):
    with pytest.raises(LuthierError, match=f"GGUF has no setting for {message}"):
        gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None))
    assert list(tmp_path.iterdir()) == []


def test_factors_that_are_not_those_of_the_settings_are_refused(tmp_path):
    config = CONFIGS["llama 3.1"]
    other = rope_factors(8, config.rope_theta, replace(STRETCH, factor=4.0))
    path = foreign(tmp_path / "a.gguf", config, drop=(), tensors={"rope_freqs.weight": other})
    with pytest.raises(LuthierError, match=r"'rope_freqs\.weight': the values do not follow from the config"):
        gguf.read(path, CPU, None)


def test_an_embedding_that_is_there_twice_is_tied(tmp_path):
    """GPT-2's files of old."""
    config = CONFIGS["gpt2"]
    twice = {"output.weight": random_model(config).embedding.weight.detach()}
    assert read_config(foreign(tmp_path / "a.gguf", config, tensors=twice)) == config


def test_maverick_has_no_norm_of_queries_and_keys(tmp_path):
    config = llama4.Config(**{**LLAMA4, "n_experts": 128, "hidden_dim": 2}, qk_norm=False)
    assert read_config(foreign(tmp_path / "a.gguf", config)) == config


WRONG = {
    "unknown architecture": (
        "llama",
        {"general.architecture": "falcon"},
        "no architecture 'falcon'; there are gpt2, llama",
    ),
    "a part of several": ("llama", {"split.count": 3}, "one part of several"),
    "no width": ("llama", {"llama.embedding_length": None}, r"'llama\.embedding_length' is missing"),
    "a width in words": ("llama", {"llama.embedding_length": "wide"}, "must be a number, it is 'wide'"),
    "heads by layer": (
        "llama",
        {"llama.attention.head_count_kv": [2, 2]},
        r"'llama\.attention\.head_count_kv' must be",
    ),
    "too many layers": (
        "llama",
        {"llama.block_count": 4000},
        r"'llama\.block_count' must be a whole number from 1 to 21",
    ),
    "fewer layers": ("llama", {"llama.block_count": 1}, r"unknown: 'blk\.1\."),
    "more layers": ("llama", {"llama.block_count": 3}, r"missing: 'blk\.2\."),
    "another width": (
        "llama",
        {"llama.feed_forward_length": 50},
        r"'blk\.0\.ffn_gate\.weight' is \(48, 32\) and must be",
    ),
    "heads that do not divide": ("llama", {"llama.attention.head_count_kv": 3}, "n_kv_heads 3"),
    "half-turning heads": ("llama", {"llama.rope.dimension_count": 4}, "4 is not supported, only 8"),
    "experts without weights": ("llama", {"llama.expert_count": 8, "llama.expert_used_count": 2}, r"missing: .*exps"),
    "another scaling": ("llama", {"llama.rope.scaling.type": "dynamic"}, "'dynamic' is not supported"),
    "longrope without factors": (
        "llama",
        {"llama.rope.scaling.type": "longrope"},
        "_short.weight' is missing",
    ),
    "longrope in llama 4": ("llama4", {"llama4.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
    "two scalings": ("llama 3.1", {"llama.rope.scaling.factor": 2.0}, "beside 'llama.rope.scaling.type' linear"),
    "scaled attention": ("llama", {"llama.attention.scale": 0.5}, r"'llama\.attention\.scale': 0.5 is not supported"),
    "wide feed-forward": (
        "gpt2",
        {"gpt2.feed_forward_length": 100},
        r"'blk\.0\.ffn_up\.weight' is \(128, 32\) and",
    ),
    "no experts": ("llama4", {"llama4.expert_count": 0}, r"'llama4\.expert_count' must be a whole number"),
    "more experts a token": ("llama4", {"llama4.expert_used_count": 5}, "experts_per_token 5"),
    "attention without chunks": ("llama4", {"llama4.attention.sliding_window": 0}, "sliding_window' must be a whole"),
    "layers in words": ("llama4", {"luthier.moe_layers": "all"}, "must be layer indices separated by commas"),
    "a bias that is not zero": ("gpt2", {"luthier.qkv_bias": False}, "the bias is not zero"),
    "low above high": (
        "llama 3.1",
        {"luthier.rope_scaling.low_freq_factor": 9.0},
        "low_freq_factor 9 is above high_freq_factor 4",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_fit_no_model_are_one_line_that_names_them(wrong, tmp_path):
    kind, changes, message = WRONG[wrong]
    path = foreign(tmp_path / "a.gguf", CONFIGS[kind], drop=(), **changes)
    with pytest.raises(LuthierError, match=message) as caught:
        gguf.read(path, CPU, None)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"output_norm.weight": None}, r"missing: 'output_norm\.weight' \(32,\)"),
        ({"blk.1.attn_q.bias": torch.zeros(32)}, r"unknown: 'blk\.1\.attn_q\.bias'"),
        ({"blk.0.attn_q.bias": torch.zeros(32)}, r"missing: 'blk\.0\.attn_k\.bias'"),
        ({"token_embd.weight": None}, r"'token_embd\.weight' is missing"),
        ({"token_embd.weight": torch.zeros(5)}, r"'token_embd\.weight' is missing or not a matrix"),
    ],
)
def test_tensors_that_fit_no_model_are_named(tensors, message, tmp_path):
    path = foreign(tmp_path / "a.gguf", CONFIGS["llama"], tensors=tensors)
    with pytest.raises(LuthierError, match=message):
        gguf.read(path, CPU, None)


def test_other_files_and_folders_are_not_recognized(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGU")
    (tmp_path / "b.gguf").write_bytes(b"")
    assert not any(gguf.recognizes(tmp_path / name) for name in ("a.gguf", "b.gguf", "none", "."))


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")

    def denied(*_arguments: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert gguf.recognizes(path)
    with pytest.raises(LuthierError, match=r"a\.gguf cannot be read: Permission denied"):
        gguf.read(path, CPU, None)


# with a tokenizer


def test_the_tokenizer_and_its_chat_template_come_along(tmp_path):
    tokenizer = train_bpe(["abc abd " * 20], vocab_size=290)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    config = replace(CONFIGS["llama"], vocab_size=tokenizer.vocab_size + 7)
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, tokenizer))
    assert len(GGUFFile(tmp_path / "a.gguf").fields["tokenizer.ggml.tokens"]) == config.vocab_size
    again = gguf.read(tmp_path / "a.gguf", CPU, None).tokenizer
    assert again.encode("abd é\n") == tokenizer.encode("abd é\n")
    assert again.chat_template == tokenizer.chat_template


# what llama.cpp has no setting for


@pytest.mark.parametrize("kind", CONFIGS)
def test_there_is_no_caution_where_llama_cpp_computes_the_same(kind):
    assert gguf.caveats(CONFIGS[kind]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_layers": (0, 3)}, "cannot open it"),
        ({"global_every": 2}, "every 4th layer"),
        ({"global_layers": ()}, "every 4th layer"),
        ({"qk_norm": False}, "does the opposite"),
        ({"n_experts": 128}, "does the opposite"),
        ({"attention_chunk": 32}, "not 32: it differs after 32"),
        ({"context_length": 10_000, "attention_chunk": 10_000}, "not 10000: it differs after 8192"),
        ({"context_length": 10_000, "temperature_tuning": False}, "temperature: it differs after 8192"),
        ({"temperature_floor": 16}, "temperature: it differs after 16"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_said(changes, message):
    config = replace(CONFIGS["llama4"], **changes)
    assert [caveat for caveat in gguf.caveats(config) if message in caveat]
    assert len(gguf.caveats(config)) == 1


def test_the_presets_of_meta_need_no_caution():
    assert gguf.caveats(llama4.SIZES["llama4-scout"]) == gguf.caveats(llama4.SIZES["llama4-maverick"]) == []
    assert gguf.caveats(gpt2.Config(**GPT2)) == []


# hostile files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = CONFIGS["llama 3.1"]
    path = tmp_path_factory.mktemp("whole") / "a.gguf"
    gguf.write(path, LoadedModel(random_model(config), config, None), quantize="Q8_0")
    file = GGUFFile(path)
    return path, path.read_bytes(), min(place.start for place in file.infos.values())


NUMBERS = st.sampled_from([0, 1, 2, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]).map(
    lambda n: struct.pack("<Q", n)
)


@pytest.mark.filterwarnings("ignore::luthier.errors.Remark")
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data(), bytes_=st.binary(min_size=1, max_size=9) | NUMBERS)
def test_a_file_with_foreign_bytes_opens_or_is_a_clear_error(data, bytes_, whole):
    path, content, header = whole
    place = data.draw(st.integers(0, header))
    path.write_bytes(content[:place] + bytes_ + content[place + len(bytes_) :])
    with suppress(LuthierError):
        gguf.read(path, CPU, None)


def test_longrope_without_its_name_is_known_by_its_factors(tmp_path):
    """As llama.cpp's converter writes Phi-3 and 4."""
    config = CONFIGS["phi3, longrope on a part"]
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None))
    file = GGUFFile(tmp_path / "a.gguf")
    unnamed = ("phi3.rope.scaling.type", "luthier.rope_scaling.factor", "luthier.rope_scaling.attention_factor")
    fields = {name: value for name, value in file.fields.items() if name not in unnamed}
    found = gguf.read_config(fields, file).rope_scaling
    assert (found.kind, found.long_factors) == ("longrope", config.rope_scaling.long_factors)
    assert found.magnitude == pytest.approx(config.rope_scaling.magnitude)


def test_the_context_trained_on_is_no_scaling_by_itself(tmp_path):
    config = CONFIGS["phi3"]
    gguf.write(tmp_path / "a.gguf", LoadedModel(random_model(config), config, None))
    file = GGUFFile(tmp_path / "a.gguf")
    assert gguf.read_config({**file.fields, "phi3.rope.scaling.original_context_length": 4096}, file) == config
