"""Meta's folders, in and out: Llama 2, 3 and 4, in one shard and in several."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
import transformers
from torch.testing import assert_close

from luthier.architectures import gpt2 as our_gpt2
from luthier.architectures import llama as our_llama
from luthier.architectures import llama4 as our_llama4
from luthier.architectures import registry
from luthier.errors import LuthierError, UsageError
from luthier.formats.pth_files import PthFile
from luthier.model_files import hugging_face, meta
from luthier.model_files.weights import LoadedModel
from luthier.tokenizers.core.train import characters
from luthier.tokenizers.formats.tiktoken_model import FAMILIES as FAMILIES_OF_TOKENIZERS
from luthier.tokenizers.formats.tiktoken_model import build, read_tiktoken
from luthier.tokenizers.load import load as load_tokenizer
from parity.peers import MODELS, llama, llama4, tokens, twin
from writers.meta import write_meta_folder

CPU = torch.device("cpu")
EVEN = {"vocab_size": 100}  # can be cut in 2 and in 4
THETA3 = {"rope_type": "default", "rope_theta": 500_000.0}
# Meta's programs know one stretch of positions, of 8192 tokens
STRETCH31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
STRETCH31 |= {"rope_theta": 500_000.0, "original_max_position_embeddings": 8192}
FAMILIES = {
    "llama 2": (lambda: llama(**EVEN, num_key_value_heads=4, rms_norm_eps=1e-3), 2),
    "llama 3": (lambda: llama(**EVEN, rope_parameters=THETA3, intermediate_size=88), 3),
    "llama 3.1": (lambda: llama(**EVEN, rope_parameters=STRETCH31), 3),
    "llama 3, tied": (lambda: llama(**EVEN, rope_parameters=THETA3, tie_word_embeddings=True), 3),
    "llama 4 scout": (
        lambda: llama4(**EVEN, rope_parameters=STRETCH31 | {"factor": 16.0, "high_freq_factor": 1.0}),
        4,
    ),
    "llama 4 maverick": (
        lambda: llama4(**EVEN, interleave_moe_layer_step=2, use_qk_norm=False, num_local_experts=8),
        4,
    ),
    "llama 4, two experts a token": (lambda: llama4(**EVEN, num_experts_per_tok=2), 4),
}
LLAMAS = {name: make for name, make in MODELS.items() if name.startswith("llama")}  # that come in Meta's format
# biases, and scalings of rotary positions other than Llama 3.1's: params.json has no settings for them
WORDLESS = {
    name for name in LLAMAS if any(word in name for word in ("biases", "linear", "dynamic", "yarn", "longrope"))
}
OURS = {name: make for name, make in LLAMAS.items() if name not in WORDLESS}


def assert_same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_folder_opens_as_the_model_that_it_was_written_from(kind, n_shards, tmp_path):
    make, family = FAMILIES[kind]
    peer = make()
    write_meta_folder(tmp_path, peer, family, n_shards)
    assert meta.recognizes(tmp_path)
    model, config, tokenizer = meta.read(tmp_path, CPU, None)
    said = hugging_face.read_config({**peer.config.to_dict(), "architectures": [type(peer).__name__]})
    assert replace(config, context_length=64) == said
    assert tokenizer is None
    assert_same(model, twin(peer))
    assert_close(model.eval()(tokens()), peer(tokens()).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("nest", [False, True])
def test_four_shards_and_settings_within_model(nest, tmp_path):
    peer = FAMILIES["llama 2"][0]()
    write_meta_folder(tmp_path, peer, 2, 4, nest=nest)
    assert_same(meta.read(tmp_path, CPU, None).model, twin(peer))


@pytest.mark.parametrize("kind", OURS)
@torch.no_grad()
def test_what_is_written_comes_back_to_the_last_bit(kind, tmp_path):
    """Hugging Face -> Luthier -> Meta -> Luthier -> Hugging Face."""
    peer = OURS[kind]()
    peer.save_pretrained(tmp_path / "hf")
    opened = hugging_face.read(tmp_path / "hf", CPU, None)
    meta.write(tmp_path / "meta", opened)
    again = meta.read(tmp_path / "meta", CPU, None)
    assert again.config == opened.config
    assert_same(again.model, opened.model)
    hugging_face.write(tmp_path / "again", again)
    last = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert_same(last, peer)
    assert_close(again.model.eval()(tokens()), peer(tokens()).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_written_has_metas_names_and_numbers(kind, tmp_path):
    """Read without Luthier: torch.load with nothing allowed gives what Meta's program would be given."""
    make, family = FAMILIES[kind]
    peer = make()
    write_meta_folder(tmp_path / "theirs", peer, family, 1)
    meta.write(tmp_path / "ours", meta.read(tmp_path / "theirs", CPU, None))
    ours = torch.load(tmp_path / "ours/consolidated.00.pth", weights_only=True, mmap=True)
    theirs = PthFile(tmp_path / "theirs/consolidated.00.pth").tensors
    extra = {name for name in theirs if "freqs" in name or "gate_stats" in name}
    assert ours.keys() == theirs.keys() - extra
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_stays(dtype, tmp_path):
    config = our_llama.Config(31, 16, 8, 12, 2, 2, 1)
    model = registry.build(config, dtype=dtype)
    meta.write(tmp_path, LoadedModel(model, config, None))
    again = meta.read(tmp_path, CPU, None).model
    assert again.embedding.weight.dtype == dtype
    assert_same(again, model)
    assert meta.read(tmp_path, CPU, torch.float32).model.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name, config in registry.presets().items() if "llama" in name])
def test_settings_of_every_size_come_back(name):
    config = registry.preset(name)
    names = registry.format_spec(config, "meta")
    params = json.loads(json.dumps(names.settings.write(config)))
    assert meta.read_config(params, vocab_size=config.vocab_size, tied=config.tie_embeddings) == config
    del params["luthier"]  # published files have no such thing, and mean the same
    if not name.endswith(("-nano", "-micro", "-mini")):
        assert meta.read_config(params, vocab_size=config.vocab_size, tied=config.tie_embeddings) == config


LLAMA2_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5, "vocab_size": -1}
LLAMA3 = {"n_kv_heads": 8, "vocab_size": 128_256, "norm_eps": 1e-5, "rope_theta": 500_000.0}
PUBLISHED = {
    "llama2-7b": LLAMA2_7B,
    "llama2-13b": LLAMA2_7B | {"dim": 5120, "n_heads": 40, "n_layers": 40},
    "llama2-70b": LLAMA2_7B
    | {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80},
    "llama3-8b": LLAMA3 | {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 1024, "ffn_dim_multiplier": 1.3},
    "llama3.1-70b": LLAMA3
    | {"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}
    | {"use_scaled_rope": True},
    "llama3.1-405b": LLAMA3
    | {"dim": 16_384, "n_layers": 126, "n_heads": 128, "multiple_of": 4096, "ffn_dim_multiplier": 1.2}
    | {"use_scaled_rope": True},
    "llama3.2-1b": LLAMA3
    | {"dim": 2048, "n_layers": 16, "n_heads": 32, "multiple_of": 256, "ffn_dim_multiplier": 1.5}
    | {"use_scaled_rope": True},
    "llama3.2-3b": LLAMA3
    | {"dim": 3072, "n_layers": 28, "n_heads": 24, "multiple_of": 256, "ffn_dim_multiplier": 1.0}
    | {"use_scaled_rope": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_those_of_the_presets(name):
    config = registry.preset(name)
    read = our_settings(PUBLISHED[name], config)
    assert read == config


def our_settings(params, config):
    return meta.read_config(params, vocab_size=config.vocab_size, tied=config.tie_embeddings)


@pytest.mark.parametrize("dim", [8, 24, 96, 768])
def test_every_width_of_a_feed_forward_can_be_written(dim):
    for hidden_dim in [1, 2, 3, 7, 31, 100, 256, 333, 1000, 1024, 2047, 4097]:
        config = our_llama.Config(31, 16, dim, hidden_dim, 2, 2, 1)
        params = registry.format_spec(config, "meta").settings.write(config)
        assert our_settings(params, config).hidden_dim == hidden_dim
        mixture = our_llama4.Config(31, 16, dim, hidden_dim, 3 * hidden_dim + 1, 2, 2, 1, n_experts=2)
        params = registry.format_spec(mixture, "meta").settings.write(mixture)
        assert meta.read_config(params, vocab_size=31, tied=False) == mixture


def test_layers_that_no_step_describes_come_back(tmp_path):
    config = our_llama4.Config(31, 16, 8, 8, 12, 4, 2, 1, n_experts=2, moe_layers=(0, 3), global_layers=())
    model = registry.build(config)
    meta.write(tmp_path, LoadedModel(model, config, None))
    again = meta.read(tmp_path, CPU, None)
    assert again.config == config
    assert_same(again.model, model)


def small_folder(tmp_path, n_shards=2):
    write_meta_folder(tmp_path, FAMILIES["llama 2"][0](), 2, n_shards)
    return tmp_path


def test_a_missing_shard_is_named(tmp_path):
    folder = small_folder(tmp_path, n_shards=4)
    (folder / "consolidated.02.pth").unlink()
    with pytest.raises(LuthierError, match=r"consolidated\.02\.pth is missing"):
        meta.read(folder, CPU, None)
    (folder / "consolidated.03.pth").unlink()
    with pytest.raises(LuthierError, match="of another shape: "):
        meta.read(folder, CPU, None)


def test_shards_of_two_models_are_refused(tmp_path):
    folder = small_folder(tmp_path)
    state = torch.load(folder / "consolidated.01.pth", weights_only=True)
    torch.save(state | {"norm.weight": torch.ones(7)}, folder / "consolidated.01.pth")
    with pytest.raises(LuthierError, match=r"'norm.weight' is \(32,\) in shard 0 and \(7,\) in shard 1"):
        meta.read(folder, CPU, None)
    state.pop("norm.weight")
    torch.save(state, folder / "consolidated.01.pth")
    with pytest.raises(LuthierError, match=r"'norm.weight' is \(32,\) in shard 0 and missing in shard 1"):
        meta.read(folder, CPU, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_layers": 3}, "missing: 'layers.2."),
        ({"n_layers": 1}, "unknown: 'layers.1."),
        ({"dim": 64}, "of another shape: "),
        ({"ffn_dim_multiplier": 3.0}, "of another shape: 'layers.0.feed_forward.w1"),
        ({"ffn_dim_multiplier": 1e9}, "params.json: 'hidden_dim' must be a whole number from 1 to"),
        ({"multiple_of": 2**40}, "params.json: 'multiple_of' must be a whole number from 1 to"),
        ({"n_layers": 10**9}, "params.json: 'n_layers' must be a whole number from 1 to"),
        ({"dim": "wide"}, "params.json: 'dim' must be a number"),
        ({"n_heads": None}, "params.json: 'n_heads' is missing"),
        ({"vocab_size": 99}, "'vocab_size' is 99, and the embedding has 100"),
        ({"quantization_args": {"scheme": "int4"}}, "quantized by Meta"),
        ({"vision_chunk_size": 448}, "vision models"),
        ({"luthier": 7}, "params.json: 'luthier' must be an object"),
        ({"model": [1]}, "params.json: 'model' must be an object"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, complaint, tmp_path):
    folder = small_folder(tmp_path)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | changes))
    with pytest.raises(LuthierError, match=complaint):
        meta.read(folder, CPU, None)


def test_gpt2_is_refused_and_nothing_is_written(tmp_path):
    config = our_gpt2.Config(31, 16, 8, 2, 2)
    with pytest.raises(UsageError, match="Meta's format is for llama and llama4, not for gpt2"):
        meta.write(tmp_path / "out", LoadedModel(registry.build(config), config, None))
    assert not (tmp_path / "out").exists()


def test_a_hugging_face_folder_is_not_written_into(tmp_path):
    """It would go on being opened as what it was."""
    config = our_llama.Config(31, 16, 8, 12, 2, 2, 1)
    opened = LoadedModel(registry.build(config), config, None)
    hugging_face.write(tmp_path, opened)
    with pytest.raises(UsageError, match="holds a Hugging Face model"):
        meta.write(tmp_path, opened)


def test_an_error_on_the_way_leaves_the_old_folder(tmp_path, monkeypatch):
    config = our_llama.Config(31, 16, 8, 12, 2, 2, 1)
    old, new = registry.build(config, seed=1), registry.build(config, seed=2)
    meta.write(tmp_path, LoadedModel(old, config, None))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meta.pth_files, "padding", full)
    with pytest.raises(LuthierError, match=r"cannot write .*No space left"):
        meta.write(tmp_path, LoadedModel(new, config, None))
    assert_same(meta.read(tmp_path, CPU, None).model, old)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "consolidated.00.pth",
        "generation_config.json",
        "params.json",
    ]


def test_progress_counts_all_bytes(tmp_path):
    config = our_llama.Config(31, 16, 8, 12, 2, 2, 1)
    seen = []
    meta.write(tmp_path, LoadedModel(registry.build(config), config, None), lambda *counts: seen.append(counts))
    total = sum(tensor.nbytes for tensor in PthFile(tmp_path / "consolidated.00.pth").tensors.values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("family", FAMILIES_OF_TOKENIZERS)
def test_the_tokenizer_goes_with_the_model(family, tmp_path):
    tokenizer = build({bytes([byte]): byte for byte in range(256)}, FAMILIES_OF_TOKENIZERS[family])
    config = our_llama.Config(tokenizer.vocab_size, 16, 8, 12, 2, 2, 1)
    meta.write(tmp_path, LoadedModel(registry.build(config), config, tokenizer))
    again = meta.read(tmp_path, CPU, None).tokenizer
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.eos_ids, again.pad_id, again.adds_bos) == (tokenizer.eos_ids, tokenizer.pad_id, False)
    assert read_tiktoken(tmp_path / "tokenizer.model", family).fingerprint == tokenizer.fingerprint


def test_a_tokenizer_of_llama_2s_kind_is_written_for_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the small model of small words"] * 9),
        model_writer=content,
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(content.getvalue())
    tokenizer = load_tokenizer(tmp_path / "tokenizer.model")
    config = our_llama.Config(tokenizer.vocab_size, 16, 8, 12, 2, 2, 1)
    meta.write(tmp_path / "meta", LoadedModel(registry.build(config), config, tokenizer))
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "meta/tokenizer.model"))
    for text in ("small words", "  of é\n"):
        ids = meta.read(tmp_path / "meta", CPU, None).tokenizer.encode(text)
        assert ids == tokenizer.encode(text) == processor.encode(text)


def test_a_tokenizer_of_another_kind_is_written_as_tokenizer_json(tmp_path):
    tokenizer = characters(["hello"])
    config = our_llama.Config(tokenizer.vocab_size, 16, 8, 12, 2, 2, 1)
    (tmp_path / "tokenizer.model").write_text("of an earlier model")
    meta.write(tmp_path, LoadedModel(registry.build(config), config, tokenizer))
    assert not (tmp_path / "tokenizer.model").exists()
    assert meta.read(tmp_path, CPU, None).tokenizer.encode("hello") == tokenizer.encode("hello")


@pytest.mark.parametrize("kind", sorted(WORDLESS))
def test_what_the_format_has_no_words_for_is_named_and_nothing_is_written(kind, tmp_path):
    LLAMAS[kind]().save_pretrained(tmp_path / "hf")
    opened = hugging_face.read(tmp_path / "hf", CPU, None)
    with pytest.raises(
        LuthierError, match=r"(does not support (attention|mlp)_bias|no setting for rope_scaling \w+): write"
    ):
        meta.write(tmp_path / "meta", opened)
    assert not (tmp_path / "meta").exists()
