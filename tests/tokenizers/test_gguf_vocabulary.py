from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hostile_texts import FRENCH, HOSTILE, TEXT, any_text, property_test, sentencepiece_model, with_runs_of_spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from luthier.errors import LuthierError, Remark
from luthier.tokenizers.core.pieces import BYTE_ALPHABET, BYTE_OF
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf
from luthier.tokenizers.formats.gguf_words import NAMES, name_of, words_of
from luthier.tokenizers.formats.tiktoken_model import FAMILIES, LLAMA3_WORDS
from luthier.tokenizers.load import load

KINDS = ["characters", "bpe", "gpt2", "llama3", "llama4", "sentencepiece bpe"]
PIECES = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
NAME = "tokenizer.ggml."


@pytest.fixture(scope="module")
def read_back(kinds) -> dict[str, Tokenizer]:
    """Each kind, written and read, for a model that knows three tokens more."""
    back = {kind: from_gguf(to_gguf(kinds[kind], kinds[kind].vocab_size + 3)) for kind in KINDS}
    return {kind: tokenizer for kind, tokenizer in back.items() if tokenizer}


@pytest.mark.parametrize("kind", KINDS)
@given(any_text)
@property_test
def test_what_is_written_makes_the_same_ids_when_read(kinds, read_back, kind, text):
    for special in (False, True):
        ids = kinds[kind].encode(text, special=special)
        assert read_back[kind].encode(text, special=special) == ids
        assert read_back[kind].decode(ids) == kinds[kind].decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_the_same_tokenizer_when_read(kinds, read_back, kind):
    ours, back = kinds[kind], read_back[kind]
    assert back.encode_batch([*HOSTILE, TEXT]) == ours.encode_batch([*HOSTILE, TEXT])
    assert back.fingerprint == ours.fingerprint
    assert (back.roles, back.eos_ids, back.special_tokens) == (ours.roles, ours.eos_ids, ours.special_tokens)
    assert back.vocab_size == ours.vocab_size
    assert list(map(back.piece, range(back.vocab_size))) == list(map(ours.piece, range(ours.vocab_size)))


@pytest.mark.parametrize("options", [{}, {"add_dummy_prefix": False}, {"split_by_whitespace": False}])
@pytest.mark.parametrize("algorithm", ["bpe", "char"])
def test_sentencepiece_models_of_all_sorts_survive(tmp_path, algorithm, options):
    sort = {"model_type": algorithm, "vocab_size": 700 if algorithm == "bpe" else 450}
    (tmp_path / "some.model").write_bytes(sentencepiece_model(**PIECES, **sort, **options))
    tokenizer = load(tmp_path / "some.model")
    back = from_gguf(to_gguf(tokenizer, 1000))
    assert back.fingerprint == tokenizer.fingerprint
    assert back.encode_batch(HOSTILE) == tokenizer.encode_batch(HOSTILE)


def test_characters_without_bytes_refuse_unknown_ones_after_the_way_there_and_back():
    tokenizer = characters(["Hello world\n"])
    back = from_gguf(to_gguf(tokenizer, 20))
    assert back.encode("old Hello\n") == tokenizer.encode("old Hello\n")
    assert back.encode("H<|endoftext|>", special=True) == tokenizer.encode("H", eos=True)
    with pytest.raises(LuthierError, match="'é'"):
        back.encode("é")


def test_the_metadata_are_plain_values_with_unused_tokens_up_to_the_models_size():
    tokenizer = train_bpe([TEXT], 300)
    fields = to_gguf(tokenizer, 310)
    assert json.loads(json.dumps(fields)) == fields
    assert fields[NAME + "tokens"][299:302] == [tokenizer.backend.id_to_token(299), "[PAD300]", "[PAD301]"]
    assert fields[NAME + "token_type"] == [3, *[1] * 299, *[5] * 10]
    assert (fields[NAME + "eos_token_id"], fields[NAME + "padding_token_id"]) == (0, 0)
    assert NAME + "bos_token_id" not in fields
    assert (fields[NAME + "add_bos_token"], fields[NAME + "add_eos_token"]) == (False, False)
    with pytest.raises(LuthierError, match="has 300 tokens, the model has 299"):
        to_gguf(tokenizer, 299)


def test_a_name_for_padding_that_is_taken_gets_a_longer_one():
    tokenizer = train_bpe([TEXT], 300)
    tokenizer.backend.add_tokens(["[PAD302]"])
    tokens = to_gguf(Tokenizer(tokenizer.backend), 304)[NAME + "tokens"]
    assert tokens[300:] == ["[PAD302]", "[PAD301]", "[PAD302]_", "[PAD303]"]


def test_a_chat_template_and_the_frame_of_a_text_survive(kinds, tmp_path):
    kinds["llama3"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = load(tmp_path)
    back = from_gguf(to_gguf(tokenizer, tokenizer.vocab_size))
    assert (back.adds_bos, back.chat_template) == (True, "{{ messages }}")
    assert back.fingerprint == tokenizer.fingerprint


# What llama.cpp's converter writes for a small Llama 2 and a small GPT-2, as far as a tokenizer goes
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    NAME + "model": "llama",
    NAME + "pre": "default",
    NAME + "tokens": ["<unk>", "<s>", "</s>", *BYTES, "▁a", "bc", "abc", "▁", "a", "b", "c", "<extra>", "[PAD267]"],
    NAME + "scores": [0.0] * 259 + [0.0, -1.0, -2.0, *[-1e9] * 4, -1000.0, -1000.0],
    NAME + "token_type": [2, 3, 3, *[6] * 256, *[1] * 7, 4, 5],
    NAME + "bos_token_id": 1,
    NAME + "eos_token_id": 2,
    NAME + "unknown_token_id": 0,
}
GPT2: dict[str, Any] = {
    "general.architecture": "gpt2",
    NAME + "model": "gpt2",
    NAME + "pre": "gpt-2",
    NAME + "tokens": ["a", "b", "c", "Ġ", "ab", "Ġab", "<|end|>", "<think>", "<|turn|>", "<|message|>", "[PAD10]"],
    NAME + "token_type": [1, 1, 1, 1, 1, 1, 3, 4, 3, 3, 5],
    NAME + "merges": ["a b", "Ġ ab"],
    NAME + "bos_token_id": 6,
    NAME + "eos_token_id": 6,
    NAME + "eot_token_id": 8,
    NAME + "eom_token_id": 9,
    NAME + "padding_token_id": 6,
}


def test_pieces_are_joined_by_their_scores():
    tokenizer = from_gguf(LLAMA)
    names = LLAMA[NAME + "tokens"]
    assert [names[number] for number in tokenizer.encode("abc bc</s>")[:6]] == [
        "▁a",
        "bc",
        "▁",
        "bc",
        "<0x3C>",
        "<0x2F>",
    ]
    assert tokenizer.roles == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None, "unk_token": "<unk>"}
    assert tokenizer.adds_bos  # the default of this kind
    assert tokenizer.vocab_size == 267


def test_pieces_without_scores_of_their_own_are_joined_in_the_order_of_their_ids():
    fields = LLAMA | {NAME + "scores": [-1000.0] * 268}
    assert from_gguf(fields).fingerprint == from_gguf(LLAMA).fingerprint


def test_what_was_added_to_pieces_is_found_even_in_plain_text_and_special_tokens_are_not():
    tokenizer = from_gguf(LLAMA)
    assert tokenizer.encode("a<extra>a") == [259, 266, 259]
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert 2 not in tokenizer.encode("</s>")
    again = from_gguf(to_gguf(tokenizer, 300))
    assert again.fingerprint == tokenizer.fingerprint


def test_an_unknown_piece_that_only_its_id_or_name_tells_is_known():
    kinds = [3, *LLAMA[NAME + "token_type"][1:]]
    for id_given in (True, False):
        fields = LLAMA | {NAME + "token_type": kinds}
        if not id_given:
            fields.pop(NAME + "unknown_token_id")
        assert from_gguf(fields).encode("abc") == from_gguf(LLAMA).encode("abc")


def test_byte_level_tokens_of_each_type():
    tokenizer = from_gguf(GPT2)
    assert tokenizer.encode("ab ab<think><|end|>") == [4, 5, 7]  # this small vocabulary has no bytes for the rest
    assert tokenizer.encode("ab<|end|><think>", special=True) == [4, 6, 7]
    assert tokenizer.special_tokens == {"<|end|>": 6, "<|turn|>": 8, "<|message|>": 9}
    assert tokenizer.eos_ids == (6, 9, 8)
    assert tokenizer.vocab_size == 10
    assert not tokenizer.adds_bos
    assert from_gguf(GPT2 | {NAME + "add_bos_token": True, NAME + "add_eos_token": True}).backend.encode("a").ids == [
        6,
        0,
        6,
    ]


def test_a_file_of_gpt2_older_than_the_names_of_words_is_gpt2():
    old = {key: value for key, value in GPT2.items() if key != NAME + "pre"}
    assert from_gguf(old).fingerprint == from_gguf(GPT2).fingerprint
    with pytest.warns(Remark, match="does not say how its model cuts words"):
        assert name_of(from_gguf(old | {"general.architecture": "llama"}).backend) == "default"


def test_a_special_tokens_name_that_is_a_word_is_plain_text():
    tokens = [*GPT2[NAME + "tokens"][:6], "stop"]
    fields = {NAME + "model": "gpt2", NAME + "pre": "llama3", NAME + "tokens": tokens, NAME + "merges": ["a b", "Ġ ab"]}
    tokenizer = from_gguf(fields | {NAME + "token_type": [1] * 6 + [3], NAME + "bos_token_id": 6})
    assert 6 not in tokenizer.encode("stop")
    assert tokenizer.encode("stop", special=True) == [6]
    assert tokenizer.adds_bos


@pytest.mark.parametrize("fields", [{}, {"general.architecture": "llama"}, {NAME + "model": "none"}])
def test_a_file_without_a_tokenizer_has_none(fields):
    assert from_gguf(fields) is None


WORDS = {  # how "It'S  12345 éA!\n\n x" is parted
    "gpt-2": "It|'|S| | 12345| éA|!|\n\n| x",
    "smollm": "It|'|S|  |1|2|3|4|5| éA|!|\n\n| x",
    "llama-bpe": "It|'S| | |123|45| éA|!\n\n| x",
    "llama4": "It'S| | |123|45| é|A|!\n\n| x",
    "qwen2": "It|'S| | |1|2|3|4|5| éA|!\n\n| x",
    "tekken": "It|'S| | |1|2|3|4|5| é|A|!\n\n| x",
    "default": "It|'|S| | |123|45| éA|!|\n\n| x",
}


@pytest.mark.parametrize("name", [name for name, written in NAMES.items() if written in WORDS])
def test_words_are_parted_as_their_name_says_and_the_name_is_found_again(name):
    words = words_of(name)
    parts = words.pre_tokenizer.pre_tokenize_str("It'S  12345 éA!\n\n x")
    written = "|".join(bytes(map(BYTE_OF.__getitem__, part)).decode() for part, _ in parts)
    assert written == WORDS[NAMES[name]]
    backend = Backend(BPE(ignore_merges=words.takes_whole))
    backend.normalizer, backend.pre_tokenizer = words.normalizer, words.pre_tokenizer
    assert name_of(backend) == NAMES[name]


@pytest.mark.parametrize("name", dict.fromkeys(NAMES.values()))
def test_the_name_that_is_written_means_the_same(name):
    words = words_of(name)
    backend = Backend(BPE(ignore_merges=words.takes_whole))
    backend.normalizer, backend.pre_tokenizer = words.normalizer, words.pre_tokenizer
    found = words_of(name_of(backend))
    assert found.pre_tokenizer.__getstate__() == words.pre_tokenizer.__getstate__()
    assert found.takes_whole == words.takes_whole
    assert "".join(part for part, _ in words.pre_tokenizer.pre_tokenize_str("It'S  12345 éA!\n\n x"))


def test_a_name_that_is_not_known_is_remarked_upon_and_opens():
    with pytest.warns(Remark, match=r"'new-words' .* may be cut wrongly"):
        tokenizer = from_gguf(GPT2 | {NAME + "pre": "new-words"})
    assert name_of(tokenizer.backend) == "default"
    with pytest.raises(LuthierError, match=r"'gemma4' .* is not byte-level"):
        from_gguf(GPT2 | {NAME + "pre": "gemma4"})


@pytest.mark.parametrize("family", ["llama3", "llama4"])
def test_a_file_of_llama_3_older_than_the_names_of_words_is_known_by_its_vocabulary(family):
    ranks, special = FAMILIES[family].ranks, FAMILIES[family].special_tokens()
    tokens = [*BYTE_ALPHABET, *(f"ordinary {number}" for number in range(256, ranks)), *special]
    fields = {"general.architecture": "llama", NAME + "model": "gpt2", NAME + "tokens": tokens, NAME + "merges": []}
    fields[NAME + "token_type"] = [1] * ranks + [3] * len(special)
    fields[NAME + "eos_token_id"] = ranks + 1
    tokenizer = from_gguf(fields)
    assert name_of(tokenizer.backend) == {"llama3": "llama-bpe", "llama4": "llama4"}[family]
    if family == "llama3":  # <|end_of_text|>, <|eom_id|>, <|eot_id|>
        assert tokenizer.eos_ids == (128_001, 128_008, 128_009)
    tokens[ranks] = "<|other|>"
    with pytest.warns(Remark, match="does not say how its model cuts words"):
        assert name_of(from_gguf(fields).backend) == "default"


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["a", "b", "<|im_end|>", "c"], [2]),
        (["<|end|>", "<|eom_id|>", "<end_of_turn>", "<|eot_id|>", "<|endoftext|>"], [0, 1, 2, 3, 4]),
        (["<|end|>", "<|return|>", "<|call|>"], [1, 2]),  # <|end|> ends a message there
        (["</s>", "a"], [0]),
        (["</s>", "<|tool_response>"], [1]),  # a "</s>" that is text
        (["<|fim_pad|>", "<fim-pad>", "<|file_sep|>"], [0, 2]),
        (["end", "<|im_start|>"], []),
    ],
)
@pytest.mark.parametrize("kind", [1, 3, 4, None])
def test_tokens_that_end_a_text_are_known_by_name(tokens, ends, kind):
    fields = {NAME + "model": "gpt2", NAME + "pre": "gpt-2", NAME + "tokens": tokens, NAME + "merges": []}
    if kind is not None:
        fields[NAME + "token_type"] = [kind] * len(tokens)
    tokenizer = from_gguf(fields)
    assert list(tokenizer.eos_ids) == ends
    assert set(ends) <= set(tokenizer.special_tokens.values())  # no text, whatever the file calls them


@pytest.mark.parametrize("kinds", [None, [1] * 259])
def test_byte_tokens_are_bytes_without_their_type(kinds):
    tokens = ["<unk>", "<s>", "</s>", *BYTES]
    fields = LLAMA | {NAME + "tokens": tokens, NAME + "scores": [0.0] * 259, NAME + "token_type": kinds}
    fields[NAME + "add_space_prefix"] = False
    if kinds is None:
        fields.pop(NAME + "token_type")
    tokenizer = from_gguf(fields)
    assert tokenizer.decode(tokenizer.encode("hé")) == "hé"
    assert tokenizer.piece(3 + 10) == b"\n"
    assert tokenizer.special_tokens.items() >= {"<unk>": 0, "</s>": 2}.items()


def test_other_writings_of_the_same_words_have_the_same_name():
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    assert name_of(backend) == "gpt-2"
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for behavior, invert in (("isolated", False), ("removed", True)):
        split = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior, invert=invert)
        for whole, name in ((True, "llama-bpe"), (False, "dbrx")):
            backend = Backend(BPE(ignore_merges=whole))
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Sequence([split]), bytes_only])
            assert name_of(backend) == name


def _prefix_space() -> Tokenizer:
    backend = train_bpe([TEXT], 300).backend
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return Tokenizer(backend)


def _other_normalizer() -> Tokenizer:
    backend = train_bpe([TEXT], 300).backend
    backend.normalizer = normalizers.Lowercase()
    return Tokenizer(backend)


def _spaces_beside() -> Tokenizer:
    backend = train_bpe([TEXT], 300).backend
    backend.add_tokens([AddedToken("<mask>", lstrip=True)])
    return Tokenizer(backend)


def _not_reached() -> Tokenizer:
    ids = {token: number for number, token in enumerate([*BYTE_ALPHABET, "ab"])}
    backend = Backend(BPE(ids, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokenizer(backend)


def _merges_without_scores() -> Tokenizer:
    ids = {token: number for number, token in enumerate(["<unk>", "▁", "a", "b", "c", "ab", "bc", "abc"])}
    backend = Backend(BPE(ids, [("a", "b"), ("b", "c"), ("a", "bc")], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return Tokenizer(backend)


def _words_of_letters() -> Tokenizer:
    backend = Backend(BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    return Tokenizer(backend)


def _nul() -> Tokenizer:
    return characters(["a\0"])


def _sign_for_a_space() -> Tokenizer:
    return characters(["a b▁"])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (_prefix_space, "no name in GGUF files .* stands for"),
        (_other_normalizer, "no name in GGUF files .* stands for.*Lowercase"),
        (_spaces_beside, "'<mask>' takes the spaces beside it"),
        (_not_reached, "no merges lead to the token 'ab'"),
        (_merges_without_scores, "no scores of pieces do the same"),
        (_words_of_letters, "this BPE tokenizer has no form"),
        (_nul, "NUL ends a token"),
        (_sign_for_a_space, r"U\+2581"),
    ],
)
def test_a_tokenizer_that_gguf_has_no_form_for_is_refused(make, complaint):
    tokenizer = make()
    with pytest.raises(LuthierError, match=complaint):
        to_gguf(tokenizer, tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model_type": "unigram"}, "Unigram"),
        ({"model_type": "bpe", "user_defined_symbols": ["aa"]}, "Prepend, Replace, Split"),
        ({"model_type": "bpe", "remove_extra_whitespaces": True}, "Replace, Replace, Prepend, Replace"),
    ],
)
def test_a_sentencepiece_model_that_gguf_has_no_form_for_is_refused(tmp_path, options, complaint):
    (tmp_path / "some.model").write_bytes(sentencepiece_model(**PIECES | options))
    tokenizer = load(tmp_path / "some.model")
    with pytest.raises(LuthierError, match=complaint):
        to_gguf(tokenizer, tokenizer.vocab_size)


def test_llama_2_as_hugging_face_writes_it_is_read_back_with_the_same_ids(tmp_path):
    """Its tokenizer.json lists all pairs that make a piece; those of runs of spaces come last, by their left part."""
    model = sentencepiece_model(model_type="bpe", allow_whitespace_only_pieces=True, **PIECES)
    (tmp_path / "tokenizer.model").write_bytes(with_runs_of_spaces(model, 16))
    ours = load(tmp_path / "tokenizer.model")
    state = json.loads(ours.backend.to_str())["model"]
    ids = state["vocab"]
    pieces = dict.fromkeys(left + right for left, right in state["merges"])
    pairs = [(piece[:i], piece[i:]) for piece in pieces for i in range(1, len(piece))]
    pairs = [pair for pair in pairs if ids.keys() >= set(pair)]
    runs = sorted(
        (pair for pair in pairs if not "".join(pair).strip("▁")), key=lambda pair: (ids[pair[0]], ids[pair[1]])
    )
    merges = [pair for pair in pairs if pair not in runs] + [pair for pair in runs if pair != ("▁", "▁")] + [("▁", "▁")]
    backend = Backend(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(backend, bos="<s>", eos="</s>")
    texts = [*HOSTILE, FRENCH, TEXT[:9000], *(f"a{' ' * length}b{' ' * length}" for length in range(70))]
    back = from_gguf(to_gguf(tokenizer, 800))
    assert len(runs) > 100
    assert back.encode_batch(texts) == tokenizer.encode_batch(texts) == ours.encode_batch(texts)
    assert from_gguf(to_gguf(ours, 800)).encode_batch(texts) == ours.encode_batch(texts)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_llama_2_as_transformers_5_saves_it_gets_sentencepieces_own_rule(kinds, scheme):
    state = json.loads(kinds["sentencepiece bpe"].backend.to_str())["model"]
    merges = [(left, right) for left, right in state["merges"]]
    backend = Backend(BPE(state["vocab"], merges, fuse_unk=True, byte_fallback=True))  # its unknown token is but a role
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(backend, bos="<s>", eos="</s>", unk="<unk>")
    back = from_gguf(to_gguf(tokenizer, 800))
    for text in [text for text in HOSTILE if not text.startswith((" ", "▁"))]:
        assert back.encode(text) == tokenizer.encode(text)
    sentencepieces = tokenizer if scheme == "never" else kinds["sentencepiece bpe"]
    assert back.encode(" a") == sentencepieces.encode(" a")
    assert back.roles == tokenizer.roles


BROKEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (GPT2, {"model": "bert"}, "of the kind 'bert'; known are 'gpt2'"),
    (GPT2, {"model": 3}, r"tokenizer\.ggml\.model must be a str, it is a int"),
    (GPT2, {"pre": "gemma4"}, "'gemma4' .*is not byte-level"),
    (GPT2, {"tokens": []}, "has 0 tokens"),
    (GPT2, {"tokens": "abc"}, "tokens must be a list, it is a str"),
    (GPT2, {"tokens": ["a", 1]}, "tokens must hold values of the type str, it holds a int"),
    (GPT2, {"tokens": ["a", ""]}, "token 1 of the GGUF file is empty"),
    (GPT2, {"tokens": ["a", "b", "a"]}, "tokens 0 and 2 of the GGUF file are the same: 'a'"),
    (GPT2, {"tokens": ["a\ud800"]}, "no Unicode text"),
    (GPT2, {"token_type": [1, 2]}, "token_type has 2 values for 11 tokens"),
    (GPT2, {"token_type": [1] * 10 + [7]}, r"has the type 7; known are \[1, 2, 3, 4, 5, 6\]"),
    (GPT2, {"token_type": [True] * 11}, "must hold values of the type int, it holds a bool"),
    (GPT2, {"merges": ["a b", "a b"]}, "merge 0 of the GGUF file, 'a b', comes more than once"),
    (GPT2, {"merges": ["ab"]}, "merge 0 of the GGUF file, 'ab', does not join two tokens to a third"),
    (GPT2, {"merges": ["a c"]}, "does not join two tokens"),
    (GPT2, {"merges": ["a b c"]}, "does not join two tokens"),
    (GPT2, {"bos_token_id": 11}, "bos token is 11, but its tokens are 0 to 10"),
    (GPT2, {"eot_token_id": -1}, "eot token is -1"),
    (GPT2, {"eom_token_id": "x"}, "eom_token_id must be a int, it is a str"),
    (GPT2, {"add_bos_token": 1}, "add_bos_token must be a bool, it is a int"),
    (LLAMA, {"tokens": ["x" * 9999, "x" * 9999]}, r"the same: 'x{79}$"),
    (LLAMA, {"scores": [0.0]}, "scores must be 267 finite numbers"),
    (LLAMA, {"scores": [float("nan")] * 268}, "finite"),
    (LLAMA, {"scores": ["x"] * 268}, "must hold values of the type float, it holds a str"),
    (LLAMA, {"add_space_prefix": "yes"}, "add_space_prefix must be a bool"),
    (LLAMA, {"token_type": [2, 2, *LLAMA[NAME + "token_type"][2:]]}, "one piece for unknown characters, this one 2"),
]


def test_pieces_for_some_bytes_only_are_refused():
    fields = to_gguf(characters(["abc"], byte_fallback=True), 300)
    fields[NAME + "tokens"][5] = "<0xX4>"
    with pytest.raises(LuthierError, match="pieces for some bytes and not for others"):
        from_gguf(fields)


@pytest.mark.parametrize(("fields", "wrong", "complaint"), BROKEN)
def test_broken_metadata_are_an_error_that_names_what_is_wrong(fields, wrong, complaint):
    with pytest.raises(LuthierError, match=complaint):
        from_gguf(fields | {NAME + key: value for key, value in wrong.items()})


def test_pieces_that_would_take_hours_are_refused():
    tokens = [*LLAMA[NAME + "tokens"], *("a" * 3000 + str(number) for number in range(20))]
    more = {"tokens": tokens, "scores": LLAMA[NAME + "scores"] + [-9.0] * 20}
    more["token_type"] = LLAMA[NAME + "token_type"] + [1] * 20
    with pytest.raises(LuthierError, match="pieces are too long"):
        from_gguf(LLAMA | {NAME + key: value for key, value in more.items()})


def test_a_chat_template_that_is_no_text_is_refused():
    with pytest.raises(LuthierError, match=r"tokenizer\.chat_template must be a str, it is a list"):
        from_gguf(GPT2 | {"tokenizer.chat_template": ["x"]})


LETTERS, LETTERS_AND_BYTES = (to_gguf(characters(["abc <|"], byte_fallback=wide), 300) for wide in (False, True))
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text("ab▁Ġ<> ", max_size=4),
    st.sampled_from(["gpt2", "llama"]),
)


@given(st.data())
@settings(property_test, max_examples=200)
def test_changed_metadata_are_a_clear_error_or_a_tokenizer(data):
    fields = dict(data.draw(st.sampled_from([GPT2, LLAMA, LETTERS, LETTERS_AND_BYTES])))
    for key in data.draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3)):
        old = fields[key]
        if isinstance(old, list) and old and data.draw(st.booleans()):
            changed = list(old)
            changed[data.draw(st.integers(0, len(old) - 1))] = data.draw(st.one_of(values, st.sampled_from(old)))
            fields[key] = changed
        else:
            fields[key] = data.draw(st.one_of(values, st.lists(values, max_size=4)))
    with contextlib.suppress(LuthierError):  # and nothing else, a panic of the backend least of all
        tokenizer = from_gguf(fields)
        if tokenizer:
            tokenizer.decode(tokenizer.encode("a bc</s> <|end|>", special=True))
