"""Greedy, sampled and beam-searched texts of batches: their invariants on tiny models of every family."""

from __future__ import annotations

import math

import pytest
import torch
from byte_models import CONFIGS, ByteTokenizer, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError, UsageError
from luthier.generation.generate import encode_prompts, generate, generate_stream
from luthier.generation.sequence import GeneratedSequence
from luthier.generation.settings import GenerationSettings

CONTEXT = 48  # of the models in conftest.py
property_test = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def ids_of(model, tokenizer, prompts, chosen):
    return [result.ids for result in generate(model, tokenizer, encode_prompts(tokenizer, prompts), chosen, CONTEXT)]


def test_greedy_text_is_the_argmax_of_the_full_forward(model, tokenizer):
    tokens = tokenizer.encode("Once")
    for _ in range(20):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
        if tokens[-1] in tokenizer.eos_ids:
            break
    assert ids_of(model, tokenizer, ["Once"], GenerationSettings(20, temperature=0)) == [tokens[4:]]


PROMPTS = st.lists(st.text("abé ", min_size=1, max_size=20), min_size=2, max_size=5)
CHOICES = st.builds(
    GenerationSettings,
    max_new_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([None, 3, 40]),
    top_p=st.sampled_from([None, 0.5, 0.95]),
    min_p=st.sampled_from([None, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    samples=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
BEAMS = st.builds(
    GenerationSettings,
    max_new_tokens=st.integers(1, 12),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    beams=st.integers(2, 4),
    length_penalty=st.sampled_from([0.0, 1.0, 2.0]),
)


@property_test
@given(prompts=PROMPTS, chosen=CHOICES | BEAMS)
def test_a_prompt_gets_the_same_text_alone_in_a_batch_and_without_cache(model, prompts, chosen):
    tokenizer = ByteTokenizer()
    batch = ids_of(model, tokenizer, prompts, chosen)
    alone = [ids for prompt in prompts for ids in ids_of(model, tokenizer, [prompt], chosen)]
    assert batch == alone
    without = GenerationSettings(**{**vars(chosen), "use_cache": False})
    assert ids_of(model, tokenizer, prompts, without) == batch


@pytest.mark.parametrize(
    "chosen", [GenerationSettings(60, temperature=0), GenerationSettings(60), GenerationSettings(60, beams=2)]
)
def test_every_row_may_fill_the_context_and_no_more(model, tokenizer, chosen):
    tokenizer.eos_ids = ()
    prompts = ["x", "v" * 47, "yyy", "z" * 46, "y" * 20]
    results = generate(model, tokenizer, encode_prompts(tokenizer, prompts), chosen, CONTEXT)
    assert [len(result.ids) for result in results] == [47, 1, 45, 2, 28]
    assert {result.finish_reason for result in results} == {"context"}


def test_rows_end_by_themselves(gpt2_model, tokenizer):
    free = ids_of(gpt2_model, tokenizer, ["Hello", "you"], GenerationSettings(20))
    tokenizer.eos_ids = (free[0][3], free[1][9])
    results = generate(
        gpt2_model, tokenizer, encode_prompts(tokenizer, ["Hello", "you"]), GenerationSettings(20), CONTEXT
    )
    for result, ids in zip(results, free, strict=True):
        end = min(i for i, token in enumerate(ids) if token in tokenizer.eos_ids)
        assert result.ids == ids[: end + 1]
        assert result.finish_reason == "end"
        assert result.text == tokenizer.decode(ids[:end])  # the end token is no text


@pytest.mark.parametrize("chosen", [GenerationSettings(20, temperature=1.5), GenerationSettings(12, beams=3)])
def test_a_stop_string_ends_one_row_and_is_not_shown(gpt2_model, tokenizer, chosen):
    prompts = encode_prompts(tokenizer, ["Hello", "you"])
    free = generate(gpt2_model, tokenizer, prompts, chosen, CONTEXT)
    stop = free[0].text[3:6]  # several tokens: a byte each
    stopped, other = generate(
        gpt2_model, tokenizer, prompts, GenerationSettings(**{**vars(chosen), "stop": (stop,)}), CONTEXT
    )
    if chosen.beams == 1:
        assert stopped.text == free[0].text[: free[0].text.index(stop)]
        assert stopped.finish_reason == "stop"
    assert stop not in stopped.text + other.text
    assert (other.finish_reason == "stop") == (stop in tokenizer.decode(other.ids))


def test_a_special_token_may_be_a_stop_string_and_is_no_text(gpt2_model, tokenizer):
    free = ids_of(gpt2_model, tokenizer, ["Hello"], GenerationSettings(20))[0]
    tokenizer.special_tokens = {"<turn>": free[5]}
    tokenizer.eos_ids = ()
    texts = encode_prompts(tokenizer, ["Hello"])
    [result] = generate(gpt2_model, tokenizer, texts, GenerationSettings(20, stop=("<turn>",)), CONTEXT)
    assert (result.ids, result.finish_reason) == (free[: free.index(free[5]) + 1], "stop")
    [result] = generate(gpt2_model, tokenizer, texts, GenerationSettings(20), CONTEXT)
    decoded = tokenizer.decode([token for token in free if token != free[5]])
    assert (result.ids, result.text) == (free, decoded.removesuffix("\ufffd"))  # a character that is not whole yet


def test_log_probabilities_are_those_of_the_model(model, tokenizer):
    for chosen in (GenerationSettings(10, temperature=2.0, top_k=4), GenerationSettings(10, beams=2)):
        [result] = generate(model, tokenizer, [tokenizer.encode("Hi")], chosen, CONTEXT)
        tokens = torch.tensor([tokenizer.encode("Hi") + result.ids])
        with torch.no_grad():
            expected = model.eval()(tokens)[0, 1:-1].log_softmax(-1).gather(1, tokens[0, 2:, None])[:, 0]
        assert result.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_samples_are_those_of_the_seeds_that_follow(gpt2_model, tokenizer):
    prompts = ["Hello", "you"]
    together = ids_of(gpt2_model, tokenizer, prompts, GenerationSettings(10, samples=3, seed=7, temperature=1.5))
    seeds = [
        ids_of(gpt2_model, tokenizer, prompts, GenerationSettings(10, seed=seed, temperature=1.5)) for seed in (7, 8, 9)
    ]
    assert together == [ids[row] for row in (0, 1) for ids in seeds]
    assert len({tuple(ids) for ids in together}) == 6


def test_more_tokens_go_on_with_the_same_text(gpt2_model, tokenizer):
    [short], [long] = (ids_of(gpt2_model, tokenizer, ["Hello"], GenerationSettings(n)) for n in (8, 30))
    assert long[:8] == short


def test_one_beam_is_wider_than_greedy(gpt2_model, tokenizer):
    """More beams find texts that the model finds likelier."""
    tokenizer.eos_ids = ()
    for prompt in ("Hello", "you", "é"):
        tokens = encode_prompts(tokenizer, [prompt])
        [greedy] = generate(gpt2_model, tokenizer, tokens, GenerationSettings(10, temperature=0), CONTEXT)
        [wide] = generate(gpt2_model, tokenizer, tokens, GenerationSettings(10, beams=30), CONTEXT)
        assert sum(wide.logprobs) >= sum(greedy.logprobs)


def test_pieces_join_to_the_text(model, tokenizer):
    chosen = GenerationSettings(40, temperature=1.5)
    prompt = tokenizer.encode("Once")
    row = GeneratedSequence(tokenizer, prompt, chosen, CONTEXT)
    pieces = []
    for _, piece in generate_stream(model, [row], chosen):
        pieces.append(piece)
        assert not torch.is_inference_mode_enabled()  # whoever reads the pieces may train meanwhile
    [result] = generate(model, tokenizer, [prompt], chosen, CONTEXT)
    assert "".join(pieces) == result.text == row.result.text
    assert len(pieces) > 5


def test_the_model_keeps_its_mode_and_speaks_without_dropout(gpt2_model, tokenizer):
    gpt2_model.train()
    training = ids_of(gpt2_model, tokenizer, ["Hello"], GenerationSettings(20))
    assert gpt2_model.training
    gpt2_model.eval()
    assert ids_of(gpt2_model, tokenizer, ["Hello"], GenerationSettings(20)) == training
    assert not gpt2_model.training


def test_global_random_numbers_are_left_alone(gpt2_model, tokenizer):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ids_of(gpt2_model, tokenizer, ["Hello"], GenerationSettings(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_output_rows_beyond_the_vocabulary_say_nothing(gpt2_model, tokenizer):
    tokenizer.vocab_size = 100
    texts = [tokenizer.encode("AB")]
    [result] = generate(gpt2_model, tokenizer, texts, GenerationSettings(30, temperature=1.5, top_p=None), CONTEXT)
    assert max(result.ids) < 100


def test_no_prompts_give_no_texts(gpt2_model, tokenizer):
    assert generate(gpt2_model, tokenizer, [], GenerationSettings(), CONTEXT) == []


def test_an_empty_prompt_begins_a_text(gpt2_model, tokenizer):
    assert encode_prompts(tokenizer, ["", "a"]) == [[256], [97]]
    tokenizer.eos_id = None
    with pytest.raises(LuthierError, match=r"the prompt is empty.*give a character"):
        encode_prompts(tokenizer, ["a", ""])


def test_a_prompt_begins_with_bos_where_the_tokenizer_has_it_so(tokenizer):
    tokenizer.bos_id = 255
    assert encode_prompts(tokenizer, ["a", ""]) == [[97], [255]]
    tokenizer.adds_bos = True
    assert encode_prompts(tokenizer, ["a", ""]) == [[255, 97], [255]]


def test_a_prompt_that_fills_the_context_is_an_error_with_the_numbers(gpt2_model, tokenizer):
    with pytest.raises(LuthierError, match=r"48 tokens and the model's context holds 48.*at most 47"):
        generate(gpt2_model, tokenizer, encode_prompts(tokenizer, ["a", "x" * 48]), GenerationSettings(), CONTEXT)


@pytest.mark.parametrize(
    "chosen", [GenerationSettings(), GenerationSettings(temperature=0), GenerationSettings(beams=2)]
)
def test_damaged_weights_are_an_error(tokenizer, chosen):
    model = small_model(CONFIGS["gpt2"])
    with torch.no_grad():
        model.norm.weight[3] = math.nan
    with pytest.raises(LuthierError, match="after 5 tokens is NaN"):
        generate(model, tokenizer, encode_prompts(tokenizer, ["Hello"]), chosen, CONTEXT)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e-30),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("beams", 0),
        ("length_penalty", math.inf),
        ("samples", 0),
        ("stop", ("a", "")),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_a_setting_out_of_range_names_itself_and_its_range(setting, value):
    with pytest.raises(UsageError, match=rf"^{setting} is .* must be"):
        GenerationSettings(**{setting: value})


def test_beams_and_samples_exclude_each_other():
    with pytest.raises(UsageError, match="beams 2 and samples 3"):
        GenerationSettings(beams=2, samples=3)
