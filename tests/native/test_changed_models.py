"""Whatever is changed in a model acts on every path that reads it: hooks, surgery, adapters, replaced weights.

Each change is made to a model and to a copy of it in float32 that PyTorch computes token by token, by calling it. Every
path must then give the copy's logits, far nearer than those of the model without the change.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_module
from quantized_weights import QUANTIZED, dequantized
from torch import nn
from torch.nn.utils import parametrize

from luthier.architectures import llama, registry
from luthier.generation.decoding_session import DecodingSession
from luthier.inspect import ablate, record, replace
from luthier.inspect.profile import profile_modules
from luthier.model.norm import RMSNorm
from luthier.native import build
from luthier.native.program import native_step
from luthier.quantize.quantize import quantize

CONFIG = llama.Config(128, 64, 64, 96, 2, 2, 1)
TEXT = [[5, 17, 99, 3, 64, 21, 8, 120, 77, 42]]
PRECISIONS = ["float32", "bfloat16", "int8", "int4"]


def lively(precision: str) -> tuple[nn.Module, nn.Module]:
    """A model, and one in float32 with the very same weights."""
    model = registry.build(CONFIG, dtype=torch.bfloat16).eval().requires_grad_(False)
    for number, weight in enumerate(model.parameters()):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        if weight.ndim == 1:
            weight.add_(0.3 * noise)
        else:
            weight.copy_(noise * (1 if weight is model.embedding.weight else 1.5 * weight.shape[-1] ** -0.5))
    exact = copy.deepcopy(model).float()
    if precision in ("int8", "int4"):
        quantize(model, precision)
        for name, module in exact.named_modules():
            if isinstance(packed := model.get_submodule(name), QUANTIZED):
                module.weight = nn.Parameter(dequantized(packed), requires_grad=False)
    return model.float() if precision == "float32" else model, exact


# Changes: each is made within its context, to the model and its copy alike


@contextmanager
def a_silenced_head(model):
    with ablate(model, {(0, 1), (1, 0)}):
        yield


def replaced(part):
    @contextmanager
    def change(model):
        with replace(model, 1, part, lambda x: x.flip(-1) * 0.5):
            yield

    change.__name__ = f"replaced_{part}"
    return change


@contextmanager
def handles(*made):
    try:
        yield
    finally:
        for handle in made:
            handle.remove()


def a_forward_hook(model):
    hook = model.layers[0].feed_forward.up.register_forward_hook(lambda _, given, out: out * 2)
    return handles(hook)


def a_forward_hook_with_keywords(model):
    hook = model.layers[1].attention.register_forward_hook(lambda _, given, words, out: -out, with_kwargs=True)
    return handles(hook)


def a_forward_pre_hook(model):
    return handles(model.layers[1].attention.key.register_forward_pre_hook(lambda _, given: (given[0].flip(-1),)))


def a_hook_on_the_whole_model(model):
    return handles(model.register_forward_hook(lambda _, given, out: out.flip(-1)))


def a_hook_on_dropout(model):
    return handles(model.dropout.register_forward_hook(lambda _, given, out: out.roll(1, -1)))


def a_hook_on_rope(model):
    rope = model.layers[0].attention.qk_steps[0]
    return handles(rope.register_forward_hook(lambda _, given, out: (-out[0], out[1])))


def a_global_forward_hook(model):
    hook = lambda module, given, out: -out if isinstance(module, RMSNorm) else None  # noqa: E731
    return handles(torch_module.register_module_forward_hook(hook))


def a_global_forward_pre_hook(model):
    hook = lambda module, given: (-given[0], *given[1:]) if isinstance(module, RMSNorm) else None  # noqa: E731
    return handles(torch_module.register_module_forward_pre_hook(hook))


@contextmanager
def put(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def a_forward_of_its_own(model):
    norm = model.layers[0].attention_norm
    norm.forward = lambda x: -type(norm).forward(norm, x)
    try:
        yield
    finally:
        del norm.forward


class Adapted(nn.Module):
    """LoRA: a matrix and the product of two small ones (arXiv 2106.09685)."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(3)
        self.down = nn.Parameter(torch.randn(4, base.in_features, generator=generator) / 8, requires_grad=False)
        self.up = nn.Parameter(torch.randn(base.out_features, 4, generator=generator) / 2, requires_grad=False)

    def forward(self, x):
        return self.base(x) + x @ self.down.T.to(x) @ self.up.T.to(x)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def an_adapter(model):
    return put(model.layers[0].attention, "value", Adapted(model.layers[0].attention.value))


def an_adapter_of_the_output(model):
    return put(model, "output", Adapted(model.output))


def a_subclass(model):
    matrix = model.layers[1].feed_forward.down
    fresh = Doubling(matrix.in_features, matrix.out_features, bias=False).requires_grad_(False)
    fresh.weight.copy_(matrix.weight if hasattr(matrix, "weight") else dequantized(matrix))
    return put(model.layers[1].feed_forward, "down", fresh.to(model.embedding.weight.dtype))


def another_class(model):
    norm = model.layers[0].feed_forward_norm
    return put(norm, "__class__", type("NegativeNorm", (RMSNorm,), {"forward": lambda x, y: -RMSNorm.forward(x, y)}))


def a_replaced_part(model):
    return put(model.layers[0], "attention_dropout", nn.Tanh())


class Negative(nn.Module):
    def forward(self, weight):
        return -weight


@contextmanager
def a_parametrization(model):
    norm = model.layers[1].attention_norm
    parametrize.register_parametrization(norm, "weight", Negative())
    try:
        yield
    finally:
        parametrize.remove_parametrizations(norm, "weight", leave_parametrized=False)


def another_weight(model):
    weight = model.layers[0].attention_norm.weight
    return put(model.layers[0].attention_norm, "weight", nn.Parameter(-weight, requires_grad=False))


def other_memory(model):
    weight = model.layers[0].attention_norm.weight
    return put(weight, "data", -weight.data)


@contextmanager
def written_in_place(model):
    weight = model.layers[0].attention_norm.weight
    weight.data.neg_()
    try:
        yield
    finally:
        weight.data.neg_()


def another_scale(model):
    return put(model.layers[0].attention, "scale", 0.5)


def another_theta(model):
    return put(model.layers[1].attention.qk_steps[0], "theta", 3.0)


def another_block(model):
    return put(model, "blocks", nn.ModuleList([model.blocks[1], model.blocks[0]]))


PARTS = ["heads", "attention_added", "feed_forward_added", "after_feed_forward"]
CHANGES = [
    a_silenced_head, *map(replaced, PARTS), a_forward_hook, a_forward_hook_with_keywords, a_forward_pre_hook,
    a_hook_on_the_whole_model, a_hook_on_dropout, a_hook_on_rope, a_global_forward_hook, a_global_forward_pre_hook,
    a_forward_of_its_own, an_adapter, an_adapter_of_the_output, a_subclass, another_class, a_replaced_part,
    a_parametrization, another_weight, other_memory, written_in_place, another_scale, another_theta, another_block,
]  # fmt: skip


# Paths: what each reads of TEXT, (n, V) logits of the last tokens


def session(model, texts, **options):
    return DecodingSession(model, texts, 20, vocab_size=128, **options)


def at_once(model, before):
    return session(model, TEXT).logits()


def token_by_token(model, before):
    some = session(model, [TEXT[0][:4]]) if before is None else before
    some.logits()
    for token in TEXT[0][4:]:
        some.append(torch.tensor([token]))
        logits = some.logits()
    return logits


def batched(model, before):
    return session(model, [TEXT[0], [7], [1, 2, 3]]).logits()[:1]


def several_at_once(model, before):
    """As speculative decoding reads guesses, from prompt look-up or from a draft."""
    some = session(model, [TEXT[0][:7]])
    some.logits()
    for token in TEXT[0][7:]:
        some.append(torch.tensor([token]))
    return some.last_logits(3)[:, 2]


PATHS = [at_once, token_by_token, batched, several_at_once]


def names(functions):
    return [function.__name__ for function in functions]


@pytest.fixture(scope="module", params=PRECISIONS)
def models(request):
    return request.param, *lively(request.param)


@pytest.mark.parametrize("change", CHANGES, ids=names(CHANGES))
@torch.inference_mode()
def test_a_change_acts_on_every_path(models, change):
    precision, model, exact = models
    unchanged = exact(torch.tensor(TEXT))[:, -1]
    begun = session(model, [TEXT[0][:4]])
    begun.logits()  # a step that was made before the change
    with ExitStack() as both:
        both.enter_context(change(exact))
        if not change.__name__.startswith("a_global"):
            both.enter_context(change(model))
        expected = exact(torch.tensor(TEXT))[:, -1]
        far = (unchanged - expected).std()
        assert far > 0.05 * expected.std()
        for path in PATHS:
            found = path(model, None)
            error = (found - expected).std()
            assert error < (1e-4 if precision == "float32" else 0.05) * expected.std(), path.__name__
        begun.cache.truncate(0)  # the tokens are read again
        assert (token_by_token(model, begun) - expected).std() < 0.05 * expected.std()
    assert (at_once(model, None) - unchanged).std() < 0.05 * unchanged.std()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_looking_inside_changes_nothing_and_says_what_the_model_computes(precision):
    model, exact = lively(precision)
    with torch.inference_mode():
        before = at_once(model, None)
    found, expected = record(model, torch.tensor(TEXT)), record(exact, torch.tensor(TEXT))
    assert (found.logits - expected.logits).std() < 0.05 * expected.logits.std()
    assert (found.layers[1].heads - expected.layers[1].heads).std() < 0.05 * expected.layers[1].heads.std()
    profile_modules(model, torch.tensor(TEXT))
    with torch.inference_mode():
        assert torch.equal(at_once(model, None), before)


def backward_hook(model):
    return handles(model.layers[0].attention.query.register_full_backward_hook(lambda *_: None))


def backward_pre_hook(model):
    return handles(model.layers[0].attention.query.register_full_backward_pre_hook(lambda *_: None))


def global_backward_hook(model):
    return handles(torch_module.register_module_full_backward_hook(lambda *_: None))


def transposed(model):
    weight = model.layers[0].attention.query.weight
    return put(weight, "data", weight.data.T)


def half(model):
    weight = model.layers[0].feed_forward.up.weight
    return put(weight, "data", weight.data[:32])


def another_type(model):
    weight = model.layers[0].attention.query.weight
    return put(weight, "data", weight.data.half())


def dropping(model):
    model.layers[0].attention_dropout.p = 0.5
    return put(model.layers[0].attention_dropout, "training", True)


@pytest.mark.parametrize("precision", ["bfloat16", "int4"])
@pytest.mark.parametrize("change", [
    *CHANGES, backward_hook, backward_pre_hook, global_backward_hook, transposed, half, another_type, dropping,
], ids=lambda function: function.__name__)  # fmt: skip
@torch.no_grad()
def test_the_compiled_step_knows_when_it_may_not_be_used(change, precision):
    if isinstance(reason := build.library_or_reason(), str):
        pytest.skip(reason)
    model, _ = lively(precision)
    if change in (transposed, half, another_type) and precision == "int4":
        pytest.skip("of plain weights")
    step = native_step(model, 64)
    assert step is not None
    assert step.is_valid()
    with change(model):
        numbers = change in (written_in_place, another_weight, other_memory)  # a step may be made of the new weights
        structure = numbers or change in (another_scale, another_theta, another_block)
        assert step.is_valid() == (change is written_in_place)
        assert (native_step(model, 64) is not None) == structure


def test_a_hooked_matrix_stays_as_it_is_when_a_model_is_quantized():
    model, exact = lively("bfloat16")
    a_forward_hook(model)
    a_forward_hook(exact)
    put(model.layers[1].feed_forward, "gate", Doubling(64, 96, bias=False).bfloat16()).__enter__()
    put(exact.layers[1].feed_forward, "gate", Doubling(64, 96, bias=False)).__enter__()
    exact.layers[1].feed_forward.gate.weight.data = model.layers[1].feed_forward.gate.weight.data.float()
    quantize(model, "int8")
    with torch.inference_mode():
        found, expected = at_once(model, None), exact(torch.tensor(TEXT))[:, -1]
    assert (found - expected).std() < 0.05 * expected.std()


@torch.no_grad()
def test_the_loss_in_training_is_that_of_the_model_as_it_is_called():
    from luthier.data.batches import Batch
    from luthier.training.loop import Trainer
    from luthier.training.settings import Settings

    model, _ = lively("float32")
    ids = torch.tensor(TEXT)
    batch = Batch(ids[:, :-1], ids[:, 1:])
    trainer = Trainer(model.requires_grad_(True), None, Settings(), 1, torch.float32)
    for change in (a_hook_on_the_whole_model, an_adapter_of_the_output, a_silenced_head):
        with change(model):
            expected = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum")
            torch.testing.assert_close(trainer.loss(batch).sum, expected)
