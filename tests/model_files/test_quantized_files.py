"""A 4-bit GGUF file is opened as it is packed; any other kind of file is quantised."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gguf_models import LLAMA, random_model

from luthier.architectures import gpt2, llama, registry
from luthier.errors import LuthierError
from luthier.model_files import gguf, hugging_face, quantized
from luthier.model_files.weights import Opened
from luthier.quantize.linear import Int4Linear, Int8Linear

CPU = torch.device("cpu")
SIZES = {"vocab_size": 96, "context_length": 64, "dim": 64, "n_layers": 2, "n_heads": 4}
CONFIGS = {
    "llama": llama.Config(**SIZES, hidden_dim=128, n_kv_heads=2, head_dim=32),
    "llama, tied": llama.Config(**SIZES, hidden_dim=128, n_kv_heads=2, head_dim=32, tie_embeddings=True),
    "gpt2": gpt2.Config(**SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_four_bits_of_a_file_stay_what_they_are(tmp_path, name):
    config = CONFIGS[name]
    gguf.write(tmp_path / "m.gguf", Opened(random_model(config), config, None), quantize="Q4_0")
    plain = gguf.read(tmp_path / "m.gguf", CPU, torch.float32)
    packed = quantized.read(tmp_path / "m.gguf", "int4")
    assert packed.config == config
    layers = {n: m for n, m in packed.model.named_modules() if isinstance(m, Int4Linear)}
    assert len(layers) == 2 * (7 if "llama" in name else 6)
    for module, layer in layers.items():
        weight = plain.model.get_submodule(module).weight
        torch.testing.assert_close(layer.dequantised(), weight.detach(), rtol=2**-8, atol=1e-6)
    assert isinstance(packed.model.output, Int8Linear)
    tokens = torch.randint(96, (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = plain.model.eval()(tokens), packed.model(tokens).float()
    assert (found - expected).std() < 0.05 * expected.std()


def test_blocks_are_read_as_gguf_reads_them():
    import gguf as library

    weight = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    for kind in (library.GGMLQuantizationType.Q4_0, library.GGMLQuantizationType.Q4_1):
        data = library.quants.quantize(weight, kind)
        numbers, scales, zeros = quantized.blocks(kind, data)
        found = (numbers.float().view(6, 3, 32) - 8) * scales[..., None] + zeros[..., None]
        np.testing.assert_allclose(found.view(6, 96), library.quants.dequantize(data, kind), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_folder_is_quantised(tmp_path, kind):
    config = CONFIGS["llama"]
    model = random_model(config)
    hugging_face.write(tmp_path / "m", Opened(copy.deepcopy(model), config, None))
    found = quantized.read(tmp_path / "m", kind).model
    assert isinstance(found.layers[1].attention.key, Int8Linear if kind == "int8" else Int4Linear)
    assert found.embedding.weight.dtype == torch.bfloat16


def test_widths_that_cannot_stay_packed_are_packed_anew(tmp_path):
    config = llama.Config(**LLAMA)  # hidden_dim 48: rows of `down` are F16 in the file
    gguf.write(tmp_path / "m.gguf", Opened(registry.build(config), config, None), quantize="Q4_0")
    model = quantized.read(tmp_path / "m.gguf", "int4").model
    assert isinstance(model.layers[0].feed_forward.down, Int8Linear)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(LuthierError, match=r"m\.gguf"):
        quantized.read(tmp_path / "m.gguf", "int4")
