"""The name tables' engine: steps can be undone, and a checkpoint that does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.weight_table import (
    Computed,
    Join,
    PairsToHalves,
    Rule,
    Split,
    Stack,
    Table,
    Transpose,
    ZeroBias,
    each_layer,
    to_external,
    to_internal,
)


class Memory:
    def __init__(self, **weights: Tensor) -> None:
        self.weights = {name.replace("__", "."): weight for name, weight in weights.items()}

    def shapes(self):
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    def tensor(self, name):
        return self.weights[name]


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


sizes = st.integers(1, 5)


@given(sizes, sizes, sizes, sizes)
def test_every_step_undoes_itself(rows, columns, more, heads):
    cases = [
        (Transpose(), [numbered(rows, columns)]),
        (Split((rows, more)), [numbered(rows + more, columns)]),
        (Split((rows, more), dim=1), [numbered(columns, rows + more)]),
        (PairsToHalves((heads, None)), [numbered(heads * 2 * rows, columns), numbered(more, columns)]),
        (PairsToHalves((heads,)), [numbered(heads * 2 * rows)]),
        (Join((rows, more), dim=1), [numbered(columns, rows), numbered(columns, more)]),
        (Stack(2), [numbered(rows, columns), numbered(rows, columns) + 1, *([numbered(columns, rows)] * 2)]),
        (ZeroBias(), [numbered(rows, columns), torch.zeros(columns)]),
        (ZeroBias(out=0), [numbered(rows, columns), torch.zeros(rows)]),
        (Computed(numbered(rows)), [numbered(rows)]),
    ]
    for step, tensors in cases:
        back = step.to_external(step.to_internal(tensors))
        assert len(back) == len(tensors), step
        assert all(map(torch.equal, back, tensors)), step


def test_rotary_pairs_of_each_head_become_halves():
    (rows,) = PairsToHalves((2,)).to_internal([torch.tensor([0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15])])
    assert rows.tolist() == [0, 2, 4, 1, 3, 5, 10, 12, 14, 11, 13, 15]


def test_a_tensor_that_follows_from_the_config_is_none_of_ours_and_must_be_right():
    factors = Rule("factors", (), Computed(torch.tensor([1.0, 8.0])))
    assert factors.to_internal([torch.tensor([1.0, 8.0], dtype=torch.bfloat16)]) == []
    with pytest.raises(LuthierError, match="do not follow from the config"):
        factors.to_internal([torch.tensor([1.0, 8.1])])
    with pytest.raises(LuthierError, match="do not follow from the config"):
        factors.to_internal([torch.tensor([1.0, float("nan")])])


def test_the_experts_of_each_kind_of_matrix_are_stacked_by_themselves():
    gates, ups = [numbered(2, 3), numbered(2, 3) + 10], [numbered(2, 3) + 20, numbered(2, 3) + 30]
    gate, up = Stack(2).to_internal([*gates, *ups])
    assert gate[:, 0, 0].tolist() == [0, 10]
    assert up[:, 0, 0].tolist() == [20, 30]


def test_rules_of_a_layer_are_numbered():
    (first, second) = each_layer([0, 7], [Rule("h.{layer}.w", ("blocks.{layer}.a", "blocks.{layer}.b"))])
    assert first.external == ("h.0.w",)
    assert second.internal == ("blocks.7.a", "blocks.7.b")


TABLE = Table(
    [Rule("model.e", "embedding"), Rule("model.qk", ("query", "key"), Transpose(), Split((2, 1)))],
    prefixes=("model.", "text."),
    ignored=("old.*",),
    duplicates=(("head", "model.e"),),
)
MODEL = {"embedding": torch.empty(3, 4), "query": torch.empty(2, 4), "key": torch.empty(1, 4)}
MODEL = {name: tensor.to("meta") for name, tensor in MODEL.items()}
E, QK = numbered(3, 4), numbered(4, 3)


def read(**weights: Tensor) -> dict[str, Tensor]:
    return dict(to_internal(TABLE, Memory(**weights), MODEL))


def test_a_checkpoint_is_read_by_our_names():
    ours = read(model__e=E, model__qk=QK)
    assert torch.equal(ours["query"], QK.T[:2])
    assert torch.equal(ours["key"], QK.T[2:])
    assert all(weight.is_contiguous() for weight in ours.values())
    assert dict(to_external(TABLE, ours)).keys() == {"model.e", "model.qk"}
    assert torch.equal(dict(to_external(TABLE, ours))["model.qk"], QK)


def test_prefixes_may_be_missing_or_more_and_known_extras_are_left():
    assert torch.equal(read(e=E, qk=QK)["embedding"], E)
    assert torch.equal(read(text__model__e=E, model__qk=QK)["embedding"], E)
    read(e=E, qk=QK, head=E.clone(), old__mask=torch.ones(1))
    read(e=E, qk=QK, text__old__mask=torch.ones(1))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"e": E}, r"missing: 'model.qk' \(4, 3\)$"),
        ({"e": E, "qk": QK, "new": E}, r"^unknown: 'new' \(3, 4\)$"),
        ({"e": E.T, "qk": QK}, r"of another shape: 'e' is \(4, 3\) and must be \(3, 4\)"),
        ({"e": E, "qk": QK.long()}, "'model.qk' holds int64, not floats"),
        ({"e": E, "qk": QK.to(torch.float8_e4m3fn)}, "'model.qk' holds float8_e4m3fn"),
        ({"e": E, "qk": QK, "model__e": E}, "two tensors for one weight: 'e' and 'model.e'"),
        ({"e": E, "qk": QK, "head": E + 1}, "'head' differs from 'model.e'"),
        ({"w": E, "qk": QK}, r"missing: 'model.e' \(3, 4\); unknown: 'w' \(3, 4\)"),
        ({f"new{i}": E for i in range(9)} | {"e": E, "qk": QK}, "and 6 more"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(weights, message):
    with pytest.raises(LuthierError, match=message):
        read(**weights)


def test_nothing_is_read_before_the_names_and_shapes_are_checked():
    class Unreadable(Memory):
        def tensor(self, name):
            raise AssertionError("read")

    with pytest.raises(LuthierError, match="missing"):
        list(to_internal(TABLE, Unreadable(e=E), MODEL))


def test_a_bias_where_the_config_says_none_must_be_zero():
    table = Table([Rule(("w", "b"), "weight", ZeroBias(), Transpose())])
    model = {"weight": torch.empty(3, 4, device="meta")}
    weights = {"w": numbered(4, 3), "b": torch.zeros(3)}
    assert dict(to_internal(table, Memory(**weights), model)).keys() == {"weight"}
    with pytest.raises(LuthierError, match="'b': the bias is not zero"):
        dict(to_internal(table, Memory(w=numbered(4, 3), b=torch.ones(3)), model))
