"""A model that is changed while its text is streamed, and how often the compiled step compares it."""

from __future__ import annotations

import pytest
import torch
from byte_models import ByteTokenizer, small_model

from luthier.architectures import llama
from luthier.generation.generate import generate, generate_stream, new_sequences
from luthier.generation.settings import GenerationSettings
from luthier.native import build
from luthier.native.supported import Snapshot

CONFIG = llama.Config(257, 64, 64, 96, 2, 2, 1)
PROMPT = [list(b"to be ")]
SETTINGS = GenerationSettings(max_new_tokens=12, temperature=0)


class NoEnd(ByteTokenizer):
    eos_ids = ()


@pytest.fixture
def model():
    if isinstance(reason := build.library_or_reason(), str):
        pytest.skip(reason)
    return small_model(CONFIG).bfloat16().eval()


@pytest.fixture
def comparisons(monkeypatch):
    made, before = [], Snapshot.is_valid
    monkeypatch.setattr(Snapshot, "is_valid", lambda snapshot: made.append(snapshot) or before(snapshot))
    return made


def test_a_hook_between_two_pieces_acts_on_the_next_token(model):
    [plain] = generate(model, NoEnd(), PROMPT, SETTINGS, 64)
    [changed] = new_sequences(NoEnd(), PROMPT, SETTINGS, 64)
    handle = None
    for _ in generate_stream(model, [changed], SETTINGS):
        if handle is None and len(changed.result.ids) >= 3:
            handle = model.layers[1].register_forward_hook(lambda _, given, out: out.flip(-1) * 3)
    handle.remove()
    known = PROMPT[0] + plain.ids
    same = next(i for i, (a, b) in enumerate(zip(plain.ids, changed.result.ids, strict=True)) if a != b)
    assert same >= 3
    with torch.inference_mode():
        expected = int(model(torch.tensor([known[: len(PROMPT[0]) + same]]))[0, -1].argmax())
    assert plain.ids[same] == expected


def test_only_a_stream_compares_the_model_before_each_token(model, comparisons):
    """Between two tokens of `generate` no code of the caller runs."""
    [result] = generate(model, NoEnd(), PROMPT, SETTINGS, 64)
    assert len(result.ids) == 12
    assert len(comparisons) <= 1
    comparisons.clear()
    for _ in generate_stream(model, new_sequences(NoEnd(), PROMPT, SETTINGS, 64), SETTINGS):
        pass
    assert len(comparisons) > 3
    comparisons.clear()
    generate(model, NoEnd(), PROMPT * 2, SETTINGS, 64)
    assert len(comparisons) <= 1


def test_a_hook_before_generation_acts_on_all_of_it(model):
    [plain] = generate(model, NoEnd(), PROMPT, SETTINGS, 64)
    handle = model.output.register_forward_hook(lambda _, given, out: -out)
    [changed] = generate(model, NoEnd(), PROMPT, SETTINGS, 64)
    handle.remove()
    assert changed.ids[0] != plain.ids[0]
    assert generate(model, NoEnd(), PROMPT, SETTINGS, 64)[0].ids == plain.ids
