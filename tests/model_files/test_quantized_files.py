"""A 4-bit GGUF file is opened as it is packed; any other kind of file is quantized."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf_blocks import KINDS, random_blocks
from gguf_models import LLAMA, random_model
from quantized_weights import dequantized

from luthier.architectures import gpt2, llama, registry
from luthier.errors import LuthierError
from luthier.formats import gguf_writing
from luthier.formats.gguf_file import GGUFFile
from luthier.generation.decoding_session import DecodingSession
from luthier.model_files import gguf, gguf_int4, hugging_face, quantized
from luthier.model_files.weights import LoadedModel
from luthier.native import build
from luthier.native.blocks import BlockEmbedding, BlockLinear
from luthier.quantize.linear import Int4Linear, Int8Linear

CPU = torch.device("cpu")
SIZES = {"vocab_size": 96, "context_length": 64, "dim": 64, "n_layers": 2, "n_heads": 4}
CONFIGS = {
    "llama": llama.Config(**SIZES, hidden_dim=128, n_kv_heads=2, head_dim=32),
    "llama, tied": llama.Config(**SIZES, hidden_dim=128, n_kv_heads=2, head_dim=32, tie_embeddings=True),
    "gpt2": gpt2.Config(**SIZES),
}


without_library = pytest.mark.usefixtures("_alone")
with_library = pytest.mark.skipif(not build.has_library(), reason="this machine has no compiled library")


@pytest.fixture
def _alone(monkeypatch):
    for module in ("quantize.quantize", "model_files.quantized"):
        monkeypatch.setattr(f"luthier.{module}.has_library", lambda: False)


@without_library
@pytest.mark.parametrize("name", CONFIGS)
def test_without_the_library_four_bits_of_a_file_stay_what_they_are(tmp_path, name):
    config = CONFIGS[name]
    gguf.write(tmp_path / "m.gguf", LoadedModel(random_model(config), config, None), quantize="Q4_0")
    plain = gguf.read(tmp_path / "m.gguf", CPU, torch.float32)
    packed = quantized.read(tmp_path / "m.gguf", "int4")
    assert packed.config == config
    layers = {n: m for n, m in packed.model.named_modules() if isinstance(m, Int4Linear)}
    assert len(layers) == 2 * (7 if "llama" in name else 6)
    for module, layer in layers.items():
        weight = plain.model.get_submodule(module).weight
        torch.testing.assert_close(dequantized(layer), weight.detach(), rtol=2**-8, atol=1e-6)
    assert isinstance(packed.model.output, Int8Linear)
    same_logits(plain.model, packed.model, 96)


def same_logits(plain, packed, vocab_size):
    """As near as rounding the activations allows, by either path."""
    tokens = torch.randint(vocab_size, (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = plain.eval()(tokens), packed(tokens).float()
        session = DecodingSession(packed, tokens.tolist(), 1, vocab_size=vocab_size)
        steps = session.last_logits(30)
    assert (found - expected).std() < 0.05 * expected.std()
    assert (steps - expected).std() < 0.05 * expected.std()


def file_of(path, config, kinds):
    """A file whose matrices are of the kinds of blocks, in turn."""
    gguf.write(path, LoadedModel(random_model(config), config, None), quantize="F32")
    plain = GGUFFile(path)
    writer = GGUFWriter(path.with_suffix(".blocks"), plain.fields["general.architecture"])
    for name, value in plain.fields.items():
        gguf_writing.add_setting(writer, name, value)
    for number, (name, place) in enumerate(plain.infos.items()):
        if len(place.shape) == 1 or name.startswith("position"):
            writer.add_tensor(name, plain.tensor(name).numpy())
            continue
        kind = kinds[number % len(kinds)]
        data = random_blocks(kind, *place.shape, number)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_suffix(".blocks")


@with_library
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kinds", [[kind] for kind in KINDS] + [list(KINDS)], ids="_".join)
def test_blocks_of_a_file_stay_what_they_are(tmp_path, name, kinds):
    config = replace(CONFIGS[name], dim=256, **({"hidden_dim": 256, "head_dim": 128} if "llama" in name else {}))
    path = file_of(tmp_path / "m.gguf", config, kinds)
    plain = gguf.read(path, CPU, torch.float32)
    packed = quantized.read(path, "int8")
    assert packed.config == config
    layers = {n: m for n, m in packed.model.named_modules() if isinstance(m, BlockLinear)}
    assert len(layers) == 2 * (7 if "llama" in name else 6) + 1
    assert {layer.kind for layer in layers.values()} == set(kinds)
    for module, layer in layers.items():
        assert dequantized(layer).equal(plain.model.get_submodule(module).weight)
    assert isinstance(packed.model.embedding, BlockEmbedding)
    ids = torch.arange(96)
    assert packed.model.embedding(ids).equal(plain.model.embedding(ids).bfloat16())
    same_logits(plain.model, packed.model, 96)


@with_library
def test_four_bits_are_asked_for_and_eight_are_rounded_but_not_those_of_the_output(tmp_path):
    config = replace(CONFIGS["llama"], dim=256, hidden_dim=256, head_dim=128)
    path = file_of(tmp_path / "m.gguf", config, ["Q8_0"])
    model = quantized.read(path, "int4").model
    assert {layer.kind for layer in model.layers[0].modules() if isinstance(layer, BlockLinear)} == {"Q4_1"}
    assert model.output.kind == model.embedding.kind == "Q8_0"


def test_blocks_are_read_as_gguf_reads_them():
    import gguf as library

    weight = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    for kind in (library.GGMLQuantizationType.Q4_0, library.GGMLQuantizationType.Q4_1):
        data = library.quants.quantize(weight, kind)
        numbers, scales, zeros = gguf_int4.unpack_blocks(kind, data)
        found = (numbers.float().view(6, 3, 32) - 8) * scales[..., None] + zeros[..., None]
        np.testing.assert_allclose(found.view(6, 96), library.quants.dequantize(data, kind), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_folder_is_quantized(tmp_path, kind):
    config = CONFIGS["llama"]
    model = random_model(config)
    hugging_face.write(tmp_path / "m", LoadedModel(copy.deepcopy(model), config, None))
    found = quantized.read(tmp_path / "m", kind).model
    layer = found.layers[1].attention.key
    if build.has_library():
        assert layer.kind == ("Q8_0" if kind == "int8" else "Q4_1")
    else:
        assert isinstance(layer, Int8Linear if kind == "int8" else Int4Linear)
    assert found.embedding.weight.dtype == torch.bfloat16


def test_widths_that_no_block_divides_are_packed_by_rows(tmp_path):
    config = llama.Config(**LLAMA)  # hidden_dim 48: rows of `down` are F16 in the file
    gguf.write(tmp_path / "m.gguf", LoadedModel(registry.build(config), config, None), quantize="Q4_0")
    model = quantized.read(tmp_path / "m.gguf", "int4").model
    assert isinstance(model.layers[0].feed_forward.down, Int8Linear)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(LuthierError, match=r"m\.gguf"):
        quantized.read(tmp_path / "m.gguf", "int4")
