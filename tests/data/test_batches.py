from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.batches import (
    NO_LOSS,
    Batch,
    BatchSource,
    PaddedDocuments,
    RandomWindows,
    SlidingWindows,
    evaluation_batches,
)
from luthier.data.shards import TokenShards
from luthier.errors import LuthierError, UsageError

T = 8  # context_length


def text(n: int, documents: list[int] | None = None) -> TokenShards:
    """n different ids in two shards: an id tells where it stands."""
    ids = np.arange(n, dtype=np.uint16)
    starts = None if documents is None else np.array(documents, np.int64)
    return TokenShards([ids[: n // 2], ids[n // 2 :]], name="train", documents=starts)


def random_windows(**more: int) -> BatchSource:
    return RandomWindows(text(200), T, 4, seed=7, **more)


def sliding_windows(**more: int) -> BatchSource:
    return SlidingWindows(text(200), T, 4, stride=5, seed=7, drop_last=False, **more)


def padded_documents(**more: int) -> BatchSource:
    return PaddedDocuments(text(200, [0, 3, 4, 30, 50, 57, 66, 100, 190]), T, 4, seed=7, **more)


def random_windows_of_3_batches_a_step(**more: int) -> BatchSource:
    return RandomWindows(text(200), T, 4, accumulation=3, seed=7, **more)


SOURCES = [random_windows, random_windows_of_3_batches_a_step, sliding_windows, padded_documents]


def same(a: Batch, b: Batch) -> bool:
    valid = a.valid is b.valid is None or torch.equal(a.valid, b.valid)  # type: ignore[arg-type]
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and valid


@pytest.mark.parametrize("make", SOURCES)
def test_batches_have_one_shape_and_targets_are_the_next_ids(make):
    source = make()
    for _ in range(3 * source.batches_per_epoch):
        batch = source.next_batch()
        assert batch.inputs.shape == batch.targets.shape == (4, T)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.is_contiguous()
        assert batch.targets.is_contiguous()
        counted = batch.targets != NO_LOSS
        assert torch.equal(batch.targets[counted], batch.inputs[counted] + 1)


@pytest.mark.parametrize("make", SOURCES)
@settings(max_examples=30)
@given(before=st.integers(0, 30), after=st.integers(1, 12))
def test_a_restored_source_goes_on_with_the_very_same_batches(make, before, after):
    source = make()
    for _ in range(before):
        source.next_batch()
    state = json.loads(json.dumps(source.state()))
    expected = [source.next_batch() for _ in range(after)]
    resumed = make()
    resumed.restore(state)
    assert resumed.epoch == before / resumed.batches_per_epoch
    assert all(same(a, resumed.next_batch()) for a in expected)
    assert resumed.state() == source.state()


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_together_read_what_one_process_reads(make, world):
    whole, parts = make(), [make(rank=rank, world=world) for rank in range(world)]
    for _ in range(12):
        batch, shares = whole.next_batch(), [part.next_batch() for part in parts]
        valid = None if batch.valid is None else torch.cat([share.valid for share in shares])
        assert same(batch, Batch(torch.cat([s.inputs for s in shares]), torch.cat([s.targets for s in shares]), valid))


@pytest.mark.parametrize("make", SOURCES)
def test_the_global_generators_neither_move_nor_matter(make):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = [make().next_batch() for _ in range(3)]
    assert state[0] == random.getstate()
    assert state[1] == np.random.get_state()[1].tolist()
    assert torch.equal(state[2], torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(2)
    assert all(same(a, b) for a, b in zip(first, [make().next_batch() for _ in range(3)], strict=True))


@pytest.mark.parametrize("make", SOURCES)
def test_a_state_of_other_settings_or_another_text_is_refused(make):
    state = make().state()
    for name, value in (("tokens", 199), ("seed", 8), ("batch_size", 2), ("source", "Other")):
        with pytest.raises(LuthierError, match=f"{name} was .* and is"):
            make().restore({**state, name: value})


def test_another_seed_is_another_order():
    for source in (RandomWindows, SlidingWindows):
        a, b = (source(text(2000), T, 4, seed=seed).next_batch() for seed in (1, 2))
        assert not same(a, b)


def test_random_windows_reach_every_place_and_change_from_batch_to_batch():
    source = RandomWindows(text(20), T, 50, seed=0)
    starts = Counter(source.next_batch().inputs[:, 0].tolist() + source.next_batch().inputs[:, 0].tolist())
    assert set(starts) == set(range(20 - T))
    assert not same(source.next_batch(), source.next_batch())


def test_a_step_of_random_windows_has_the_same_rows_however_it_is_cut():
    cuts = {size: RandomWindows(text(200), T, size, accumulation=8 // size, seed=7) for size in (1, 2, 4, 8)}
    for _ in range(3):
        steps = {
            size: torch.cat([source.next_batch().inputs for _ in range(8 // size)]) for size, source in cuts.items()
        }
        assert all(torch.equal(rows, steps[8]) for rows in steps.values())
    assert {source.batches_per_epoch * size / 8 for size, source in cuts.items()} == {200 // (8 * T)}


def test_a_state_of_version_0_1_goes_on_drawing_batch_by_batch():
    begun, resumed = (
        random_windows(),
        random_windows_of_3_batches_a_step(),
    )  # 0.1 drew as one does with one batch a step
    for _ in range(4):
        begun.next_batch()
    state = begun.state()
    assert "accumulation" not in state
    resumed.restore(state)
    assert all(same(resumed.next_batch(), begun.next_batch()) for _ in range(5))
    assert "accumulation" not in resumed.state()


def test_sliding_windows_are_the_courses():
    n, stride = 200, 5
    source = SlidingWindows(text(n), T, 4, stride=stride, seed=0, shuffle=False, drop_last=True)
    starts = list(range(0, n - T, stride))
    assert source.batches_per_epoch == len(starts) // 4
    for _ in range(2):
        found = [start for _ in range(source.batches_per_epoch) for start in source.next_batch().inputs[:, 0].tolist()]
        assert found == starts[: len(starts) // 4 * 4]


def test_the_verdict_gives_the_windows_of_the_course():
    train, validation = (SlidingWindows(text(n), 256, 2, seed=123, drop_last=False) for n in (4_612, 534))
    assert (train.batches_per_epoch, validation.batches_per_epoch) == (9, 1)
    assert train.batches_per_epoch * 2 * 256 == 4_608


def test_an_epoch_of_sliding_windows_sees_each_once_in_an_order_of_its_own():
    source = SlidingWindows(text(200), T, 4, stride=5, seed=0, drop_last=False)
    epochs = []
    for epoch in range(3):
        assert source.epoch == epoch
        batches = [source.next_batch() for _ in range(source.batches_per_epoch)]
        rows = [(b.inputs[i, 0].item(), (b.targets[i] != NO_LOSS).all().item()) for b in batches for i in range(4)]
        epochs.append([start for start, full in rows if full])
        assert len(rows) - len(epochs[-1]) == source.batches_per_epoch * 4 - len(range(0, 200 - T, 5))
    assert all(sorted(starts) == list(range(0, 200 - T, 5)) for starts in epochs)
    assert all(a != b for a, b in pairwise(epochs))


@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=20).filter(lambda ls: max(ls) > 1), shuffle=st.booleans()
)
def test_every_id_of_a_document_but_its_first_is_predicted_once(lengths, shuffle):
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    source = PaddedDocuments(text(sum(lengths), starts), T, 3, seed=0, pad_id=999, shuffle=shuffle)
    batches = [source.next_batch() for _ in range(source.batches_per_epoch)]
    predicted = torch.cat([b.targets[b.targets != NO_LOSS] for b in batches]).tolist()
    assert sorted(predicted) == sorted(set(range(sum(lengths))) - set(starts))
    for batch in batches:
        assert batch.valid is not None
        counted = batch.targets != NO_LOSS
        assert torch.equal(batch.inputs == 999, ~counted)
        assert batch.valid[:, 0].all(), "no row is without a key to look at"
        assert torch.equal(batch.valid[counted.any(1)], counted[counted.any(1)])
        assert (batch.valid.diff(dim=1).long().sum(1) <= 1).all(), "the padding is on the right"


def test_a_row_never_holds_two_documents():
    batch = PaddedDocuments(text(9, [0, 3, 4]), T, 2, seed=0, pad_id=0, shuffle=False).next_batch()
    assert batch.inputs.tolist() == [[0, 1, *[0] * 6], [4, 5, 6, 7, *[0] * 4]]
    assert batch.targets.tolist() == [[1, 2, *[NO_LOSS] * 6], [5, 6, 7, 8, *[NO_LOSS] * 4]]
    assert batch.valid.tolist() == [[True] * 2 + [False] * 6, [True] * 4 + [False] * 4]


@given(n=st.integers(2, 300), context=st.integers(1, 40), batch=st.integers(1, 9))
def test_a_full_evaluation_predicts_every_token_but_the_first_once(n, context, batch):
    batches = list(evaluation_batches(text(n), context, batch))
    assert all(b.inputs.shape == (batch, context) for b in batches)
    counted = [b.targets != NO_LOSS for b in batches]
    assert torch.cat([b.targets[c] for b, c in zip(batches, counted, strict=True)]).tolist() == list(range(1, n))
    assert all(torch.equal(b.targets[c], b.inputs[c] + 1) for b, c in zip(batches, counted, strict=True))


@given(n=st.integers(100, 3000), n_batches=st.integers(1, 20), world=st.sampled_from([1, 2, 4]))
def test_a_short_evaluation_is_spread_over_the_split_and_always_the_same(n, n_batches, world):
    ranks = [list(evaluation_batches(text(n), T, 4, n_batches, rank=r, world=world)) for r in range(world)]
    full = list(evaluation_batches(text(n), T, 4, n_batches))
    for number, batch in enumerate(full):
        assert torch.equal(batch.inputs, torch.cat([batches[number].inputs for batches in ranks]))
    windows = -(-(n - 1) // T)
    firsts = [row[0].item() - 1 for b in full for row in b.targets if row[0] != NO_LOSS]
    assert len(set(firsts)) == len(firsts) == min(windows, 4 * n_batches)
    assert all(first % T == 0 for first in firsts)
    gaps = {b - a for a, b in pairwise(firsts)}
    assert not gaps or max(gaps) - min(gaps) <= T


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: RandomWindows(text(8), T, 1, seed=0),
            "has 8 tokens and one window needs 9 .* lower context_length to 7",
        ),
        (lambda: SlidingWindows(text(5), T, 1, seed=0), "has 5 tokens .* needs 9 .* lower context_length to 4 or less"),
        (
            lambda: SlidingWindows(text(40), T, 9, seed=0),
            "gives 4 windows of 8 tokens at stride 8, not one batch of 9",
        ),
        (lambda: SlidingWindows(text(40), T, 1, stride=0, seed=0), "stride 0 must be at least 1"),
        (lambda: PaddedDocuments(text(3, [0, 1, 2]), T, 1, seed=0), "no document of two tokens"),
        (lambda: PaddedDocuments(text(9, [0, 4]), T, 3, seed=0, drop_last=True), "gives 2 rows, not one batch of 3"),
        (lambda: RandomWindows(text(99), T, 3, seed=0, world=2), "batch_size 3 cannot be shared evenly by 2"),
        (lambda: RandomWindows(text(99), 0, 3, seed=0), "context_length 0"),
        (lambda: list(evaluation_batches(text(1), T, 1)), "has 1 tokens: there is nothing to predict"),
    ],
)
def test_too_little_text_is_an_error_with_the_numbers_and_the_setting(make: Callable[[], object], complaint: str):
    with pytest.raises(UsageError, match=complaint):
        make()


def test_the_shortest_text_that_fits_a_window_is_enough():
    assert RandomWindows(text(9), T, 2, seed=0).next_batch().inputs.tolist() == [list(range(8))] * 2


def test_a_batch_moves_to_a_device_whole():
    batch = padded_documents().next_batch().to("meta")
    assert batch.valid is not None
    assert {batch.inputs.device.type, batch.targets.device.type, batch.valid.device.type} == {"meta"}
