"""The score of a text: against its definition, against transformers, and whatever the windows."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_runs import runs_of

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.errors import LuthierError, UsageError
from luthier.evaluation import perplexity
from luthier.evaluation.perplexity import BlockedLoss, score
from luthier.evaluation.windows import TokenSpan, limited, windows
from luthier.tokenizers.core.train import characters, train_bpe

property_test = settings(max_examples=80, deadline=None, derandomize=True, database=None)
CONFIGS = {
    "gpt2": gpt2.Config(61, 16, 32, 2, 4, dropout=0.5),
    "llama": llama.Config(61, 16, 32, 48, 2, 4, 2),
    "llama4": llama4.Config(
        61, 16, 32, 24, 48, 4, 4, 2, None, n_experts=4, moe_every=2, attention_chunk=6, temperature_floor=4.0
    ),
}
IDS = torch.randint(61, (90,), generator=torch.Generator().manual_seed(3)).tolist()


def sure_model(config, seed=0):
    model = registry.build(config, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return sure_model(CONFIGS[request.param])


def one(ids, ends=True):
    return TokenSpan(ids, [1] * len(ids), ends)


@torch.no_grad()
def naive(model, ids, place, before):
    """-log p of one token after those before it, one at a time."""
    context = torch.tensor([ids[max(0, place - before) : place]])
    return -model.eval()(context)[0, -1].log_softmax(-1)[ids[place]].item()


def test_with_stride_1_every_token_has_all_the_context_there_is(model):
    found = score(model, [one(IDS)], context_length=16, stride=1, batch_size=7)
    expected = [naive(model, IDS, place, 16) for place in range(1, len(IDS))]
    assert found.loss == pytest.approx(statistics.fmean(expected), rel=1e-5)
    assert (found.tokens, found.bytes) == (89, 89)
    assert found.perplexity == pytest.approx(math.exp(statistics.fmean(expected)), rel=1e-4)


def test_with_stride_of_the_context_the_text_is_cut_into_blocks(model):
    found = score(model, [one(IDS)], context_length=16, stride=16, batch_size=3)
    losses = []
    for start in range(0, len(IDS) - 1, 16):
        block = torch.tensor([IDS[start : start + 17]])
        with torch.no_grad():
            logits = model.eval()(block[:, :-1])
        losses += F.cross_entropy(logits[0], block[0, 1:], reduction="none").tolist()
    assert found.loss == pytest.approx(statistics.fmean(losses), rel=1e-5)
    assert found.tokens == len(losses) == 89


@pytest.mark.parametrize("stride", [1, 5, 16])
def test_documents_and_runs_are_scored_as_if_alone(model, stride):
    parts = [IDS[:40], IDS[40:41], IDS[41:60], IDS[60:]]
    alone = [score(model, [one(part)], context_length=16, stride=stride) for part in parts if len(part) > 1]
    together = score(model, [one(part) for part in parts], context_length=16, stride=stride, batch_size=4)
    assert together.tokens == sum(each.tokens for each in alone)
    assert together.loss == pytest.approx(sum(each.loss * each.tokens for each in alone) / together.tokens, rel=1e-5)
    cut = [TokenSpan([], [], False), one(IDS[:7], False), one(IDS[7:40], False), one(IDS[40:])]
    whole = score(model, [one(IDS)], context_length=16, stride=stride)
    assert score(model, cut, context_length=16, stride=stride).loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("stride", [4, 12])
def test_the_loss_is_that_of_transformers_for_the_same_windows(tmp_path, stride):
    import transformers

    import luthier

    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = transformers.LlamaForCausalLM(config).eval()
    peer.save_pretrained(tmp_path)
    sums = []
    for start in range(0, len(IDS), stride):  # their guide's way: what came before is masked by -100
        ids = torch.tensor([IDS[start : start + 13]])
        labels = ids.clone()
        if start:
            labels[:, : 13 - stride] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            with torch.no_grad():
                sums.append((peer(ids, labels=labels).loss.item() * scored, scored))
    mine = score(luthier.load(tmp_path).model, [one(IDS)], context_length=12, stride=stride)
    assert mine.tokens == sum(scored for _, scored in sums) == 89
    assert mine.loss == pytest.approx(sum(nats for nats, _ in sums) / 89, rel=1e-5)


@property_test
@given(
    lengths=st.lists(st.integers(0, 40), max_size=5),
    context=st.integers(1, 12),
    data=st.data(),
    cuts=st.sets(st.integers(0, 200)),
)
def test_each_token_is_scored_once_with_enough_before_it(lengths, context, data, cuts):
    stride = data.draw(st.integers(1, context))
    runs, wanted, number = [], [], 0
    for length in lengths:
        document = list(range(number, number + length))
        wanted += [(token, place) for place, token in enumerate(document)][1:]
        places = [0, *sorted(cut - number for cut in cuts if number < cut < number + length), length]
        for start, end in pairwise(places):
            runs.append(TokenSpan(document[start:end], document[start:end], end == length))
        number += length
    found = []
    for window in windows(runs, context, stride):
        assert 2 <= len(window.ids) <= context + 1
        assert 1 <= window.scored < len(window.ids)
        assert window.n_bytes == sum(window.ids[-window.scored :])
        found += [(token, place) for place, token in enumerate(window.ids)][-window.scored :]
    assert [token for token, _ in found] == [token for token, _ in wanted]
    for (_, before), (_, place) in zip(found, wanted, strict=True):
        assert before >= min(place, context - stride + 1)


@property_test
@given(lengths=st.lists(st.integers(0, 9), max_size=6), most=st.integers(1, 30))
def test_so_many_tokens_are_scored_and_no_more(lengths, most):
    runs = [TokenSpan(range(length), range(length), ends) for length in lengths for ends in (True,)]
    there = sum(max(0, length - 1) for length in lengths)
    assert sum(window.scored for window in windows(limited(runs, most), 4, 3)) == min(most, there)
    parts = [TokenSpan([number], [1], number == 20) for number in range(21)]
    assert sum(window.scored for window in windows(limited(parts, most), 4, 3)) == min(most, 20)


def test_a_model_that_knows_nothing_scores_the_size_of_the_vocabulary():
    text = "Où est Paris ? 東京 aaaa bbbb\n" * 9
    for tokenizer in (characters([text]), train_bpe([text], 270)):
        model = registry.build(llama.Config(tokenizer.vocab_size, 16, 8, 8, 1, 2, 1))
        with torch.no_grad():
            model.output.weight.zero_()
        found = score(model, runs_of(tokenizer, [text]), context_length=16, stride=8)
        ids = tokenizer.encode(text)
        assert found.loss == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)
        assert found.standard_error == pytest.approx(0, abs=1e-6)
        assert found.tokens == len(ids) - 1
        assert found.bytes == len(text.encode()) - len(tokenizer.piece(ids[0]))
        bits = found.tokens * math.log2(tokenizer.vocab_size)
        assert found.bits_per_byte == pytest.approx(bits / found.bytes, rel=1e-6)
        assert found.tokens_per_second > 0


def test_a_bos_token_lets_the_first_token_be_scored():
    class Begins:
        adds_bos, bos_id = True, 60
        pieces = characters(["abc"]).pieces

        def encode(self, text):
            return [1 + "abc".index(character) for character in text]

    [run] = runs_of(Begins(), ["cab"])
    assert run == TokenSpan([60, 3, 1, 2], [0, 1, 1, 1], True)
    [window] = windows([run], 8, 8)
    assert (window.scored, window.n_bytes) == (3, 3)


def test_the_error_is_that_of_the_mean_over_blocks():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(120, generator=generator)
    blocks = BlockedLoss(10)
    for part in losses.split([7, 1, 60, 12, 40]):
        blocks.add(part)
    means = losses.view(12, 10).mean(1).tolist()
    assert blocks.tokens == 120
    assert blocks.loss == pytest.approx(losses.mean().item())
    assert blocks.standard_error == pytest.approx(statistics.stdev(means) / math.sqrt(12))
    short = BlockedLoss(10)
    short.add(losses[:10])
    assert short.standard_error is None
    short.add(losses[10:11])
    assert 0 < short.standard_error < 1


def test_the_error_covers_what_other_stretches_of_text_would_have_given():
    """Losses that move together within a passage: an error over single tokens would say a fifth of this."""
    generator = torch.Generator().manual_seed(1)

    def stretch():
        return torch.randn(40, generator=generator).repeat_interleave(25)

    measured, seen = [], []
    for _ in range(200):
        blocks = BlockedLoss(25)
        blocks.add(stretch())
        measured.append(blocks.standard_error)
        seen.append(blocks.loss)
    assert statistics.fmean(measured) == pytest.approx(statistics.stdev(seen), rel=0.1)


def test_few_logits_are_held_at_once(monkeypatch):
    model = sure_model(CONFIGS["llama"])
    whole = score(model, [one(IDS)], context_length=16, stride=4)
    rows = []
    model.output.register_forward_hook(lambda _, given, out: rows.append(out.shape[0]))
    monkeypatch.setattr(perplexity, "LOGITS_PER_CHUNK", 61 * 5)
    found = score(model, [one(IDS)], context_length=16, stride=4)
    assert max(rows) == 5
    assert sum(rows) == 89  # logits are made for scored tokens only
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_model_in_training_is_scored_without_dropout_and_goes_on_training():
    model = sure_model(CONFIGS["gpt2"])
    first = score(model.train(), [one(IDS)], context_length=16, stride=8)
    assert model.training
    assert score(model.eval(), [one(IDS)], context_length=16, stride=8).loss == first.loss


def test_progress_is_told():
    told = []
    score(sure_model(CONFIGS["llama"]), [one(IDS)], context_length=16, stride=8, batch_size=2, progress=told.append)
    assert sum(told) == 89
    assert len(told) > 3


def test_what_cannot_be_scored_is_one_clear_line():
    model = sure_model(CONFIGS["llama"])
    for changes, message in [
        ({"stride": 17}, "tokens would be left out"),
        ({"stride": 0}, "stride is 0"),
        ({"context_length": 0}, "context is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            score(model, [one(IDS)], **{"context_length": 16, "stride": 8, **changes})
    for runs in ([], [one([5])], [one([])]):
        with pytest.raises(LuthierError, match="nothing to score"):
            score(model, runs, context_length=16, stride=8)
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    with pytest.raises(LuthierError, match="loss on this text is nan"):
        score(model, [one(IDS)], context_length=16, stride=8)
