"""gpt-oss in folders whose experts are packed in MXFP4: the numbers that transformers unpacks."""

from __future__ import annotations

import json

import pytest
import torch
from more_models import gpt_oss
from random_weights import VOCAB
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import luthier
from luthier.errors import LuthierError
from luthier.model_files.mxfp4 import unpack

TOKENS = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(2))


def packed(n_experts: int, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Any blocks, and scales near 1."""
    generator = torch.Generator().manual_seed(rows)
    blocks = torch.randint(256, (n_experts, rows, groups, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(122, 127, (n_experts, rows, groups), generator=generator, dtype=torch.uint8)


def test_numbers_are_those_of_transformers():
    blocks, scales = packed(3, 8, 2)
    expected = convert_moe_packed_tensors(blocks, scales)  # (E, C, N)
    found = torch.stack([unpack(block, scale).T for block, scale in zip(blocks, scales, strict=True)])
    assert_close(found, expected, atol=0, rtol=0)


def write_packed(folder):
    """A folder with packed experts, and the model that they stand for."""
    peer = gpt_oss(intermediate_size=32, num_hidden_layers=1)
    peer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, rows in (("gate_up_proj", 64), ("down_proj", 32)):
        full = f"model.layers.0.mlp.experts.{name}"
        blocks, scales = packed(6, rows, 1)
        weights[full + "_blocks"], weights[full + "_scales"] = blocks, scales
        peer.get_parameter(full).data.copy_(convert_moe_packed_tensors(blocks, scales))
        del weights[full]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    return peer


@torch.no_grad()
def test_a_packed_folder_opens_and_is_written_unpacked(tmp_path):
    peer = write_packed(tmp_path / "packed")
    lm = luthier.load(tmp_path / "packed", dtype=torch.float32)
    assert_close(lm.model(TOKENS), peer(TOKENS).logits, atol=1e-4, rtol=0)
    lm.save(tmp_path / "unpacked")
    assert "quantization_config" not in json.loads((tmp_path / "unpacked" / "config.json").read_text())
    assert torch.equal(luthier.load(tmp_path / "unpacked").model(TOKENS), lm.model(TOKENS))


def test_blocks_without_their_scales_are_named(tmp_path):
    write_packed(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.experts.down_proj_scales"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LuthierError, match=r"'model.layers.0.mlp.experts.down_proj_blocks'.* is not packed in MXFP4"):
        luthier.load(tmp_path)
