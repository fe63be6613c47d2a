"""Folders of Hugging Face's whose tokenizer lies in several files, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile_texts import HOSTILE, TEXT, sentencepiece_model
from transformers import AutoTokenizer

from luthier.errors import LuthierError, Remark
from luthier.tokenizers.core.train import train_bpe
from luthier.tokenizers.formats.gguf_vocabulary import from_gguf, to_gguf
from luthier.tokenizers.formats.sentencepiece_writing import sentencepiece_file
from luthier.tokenizers.load import load

TURN = {"<|im_end|>": 0, "<|im_start|>": 1}  # counted from the end of the vocabulary
TURNS = "<|im_start|>user\nHello <|im_end|> <|im_end|>bye</s> <s>a"
TEXTS = [*HOSTILE, TEXT[:20_000], "Hello", " Hello", "  Hello", TURNS, f" {TURNS}", "\nHello", "▁a"]
PIECES = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def pieces(folder: Path) -> int:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(model_type="bpe", **PIECES))
    write(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    return 700


def two_files(folder: Path) -> int:
    state = json.loads(train_bpe([TEXT], 400).backend.to_str())["model"]
    write(folder / "vocab.json", state["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, state["merges"])))
    write(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    write(folder / "config.json", {"model_type": "gpt2"})
    return 400


def qwen2_files(folder: Path) -> int:
    size = two_files(folder)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    write(folder / "config.json", {"model_type": "qwen2"})
    return size


def one_file(folder: Path) -> int:
    train_bpe([TEXT], 400).backend.save(str(folder / "tokenizer.json"))
    return 400


FILES = {
    "tokenizer.model": pieces,
    "vocab.json": two_files,
    "vocab.json of Qwen": qwen2_files,
    "tokenizer.json": one_file,
}


def configure(folder: Path, **settings: object) -> None:
    path = folder / "tokenizer_config.json"
    write(path, (json.loads(path.read_text()) if path.is_file() else {}) | settings)


@pytest.mark.parametrize("roles", [{}, {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}])
@pytest.mark.parametrize("files", FILES)
def test_added_tokens_json_gives_transformers_ids(tmp_path, files, roles):
    size = FILES[files](tmp_path)
    write(tmp_path / "added_tokens.json", {token: size + place for token, place in TURN.items()})
    configure(tmp_path, **roles)
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs(TEXTS, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(TEXTS, special=True) == ids
    assert ours.vocab_size == len(theirs) == size + 2
    assert {token: ours.backend.token_to_id(token) for token in TURN} == {"<|im_end|>": size, "<|im_start|>": size + 1}
    assert ours.eos_id == theirs.eos_token_id
    if roles:
        assert (ours.eos_ids, ours.pad_id) == ((size,), size + 1)
        # split_special_tokens has transformers leave alone what is special, as `encode` does
        assert (
            ours.encode_batch(TEXTS) == theirs(TEXTS, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        )


def test_without_added_tokens_json_the_end_token_that_it_held_is_named(tmp_path):
    pieces(tmp_path)
    configure(tmp_path, eos_token="<|im_end|>")
    with pytest.raises(LuthierError, match=r"the eos_token '<\|im_end\|>' .* is not in the vocabulary"):
        load(tmp_path)


def test_an_added_token_that_cannot_have_its_id_is_named(tmp_path):
    one_file(tmp_path)
    write(tmp_path / "added_tokens.json", {"<far>": 410})
    with pytest.raises(LuthierError, match=r"'<far>' cannot be token 410.*the vocabulary has 401 tokens"):
        load(tmp_path)
    write(tmp_path / "added_tokens.json", {"<far>": "410"})
    with pytest.raises(LuthierError, match=r"added_tokens\.json"):
        load(tmp_path)


def test_an_unknown_token_that_is_none_is_remarked_upon(tmp_path):
    one_file(tmp_path)
    configure(tmp_path, unk_token="<unk>")
    with pytest.warns(Remark, match="the unk_token '<unk>' is not in the vocabulary"):
        assert load(tmp_path).unk_id is None


@pytest.mark.parametrize("listed", [{}, {"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}}}])
def test_of_two_files_that_name_a_role_transformers_counts(tmp_path, listed):
    one_file(tmp_path)
    write(tmp_path / "special_tokens_map.json", {"eos_token": "a"})
    configure(tmp_path, eos_token="b", **listed)
    assert load(tmp_path).eos_id == AutoTokenizer.from_pretrained(tmp_path).eos_token_id


def test_more_special_tokens_are_transformers(tmp_path):
    one_file(tmp_path)
    configure(tmp_path, additional_special_tokens=["<one>", "<two>"])
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("a<two><one>", special=True) == theirs("a<two><one>")["input_ids"]
    write(tmp_path / "config.json", {"vocab_size": 401})  # the model has room for one of them
    assert load(tmp_path).special_tokens == {"<|endoftext|>": 0, "<one>": 400}


SPACES = [
    {},
    {"legacy": True},
    {"legacy": False},
    {"add_prefix_space": False},
    {"legacy": True, "add_prefix_space": False},
    {"legacy": True, "add_prefix_space": True},
]


@pytest.mark.parametrize("said", SPACES)
def test_the_space_before_a_text_is_put_there_as_the_config_says(tmp_path, said):
    size = pieces(tmp_path)
    configure(tmp_path, **said)
    write(tmp_path / "added_tokens.json", {token: size + place for token, place in TURN.items()})
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode_batch(TEXTS, special=True) == theirs(TEXTS, add_special_tokens=False)["input_ids"]
    arrays = ours.encode_arrays([*HOSTILE, TEXT])
    assert [array.tolist() for array in arrays] == ours.encode_batch([*HOSTILE, TEXT])
    assert ours.encodes_words
    for text in ("Hello", "Hello  world", TEXT[:500]):
        assert ours.decode(ours.encode(text)) == text
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    # what is written of it opens with the same ids
    ours.save(tmp_path / "again")
    assert load(tmp_path / "again").encode_batch(TEXTS, special=True) == ours.encode_batch(TEXTS, special=True)


@pytest.mark.parametrize("said", SPACES)
def test_such_a_tokenizer_has_a_form_in_other_formats(tmp_path, said):
    pieces(tmp_path)
    configure(tmp_path, **said)
    ours = load(tmp_path)
    assert sentencepiece_file(ours) is not None
    back = from_gguf(to_gguf(ours, ours.vocab_size))
    texts = [text for text in HOSTILE if not text.startswith((" ", "▁"))]
    assert back.encode_batch(texts) == ours.encode_batch(texts)


def test_a_space_before_a_text_that_is_no_yes_or_no_is_a_clear_error(tmp_path):
    pieces(tmp_path)
    configure(tmp_path, add_prefix_space="no")
    with pytest.raises(LuthierError, match="add_prefix_space must be true or false, it is 'no'"):
        load(tmp_path)


def test_a_model_of_pieces_alone_or_in_a_folder_of_metas_is_sentencepieces(tmp_path, kinds):
    pieces(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    write(tmp_path / "params.json", {})
    texts = [" Hello", "Hello", "  a"]
    assert load(tmp_path).encode_batch(texts) == kinds["sentencepiece bpe"].encode_batch(texts)


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 70}, None, (70,)),
        ({"eos_token_id": [70, 71]}, None, (70, 71)),
        ({"text_config": {"eos_token_id": 72}}, None, (72,)),
        ({"eos_token_id": 70}, {"eos_token_id": 71}, (71,)),
        ({"eos_token_id": 70}, {}, (0,)),
        ({"eos_token_id": None}, None, (0,)),
        ({}, None, (0,)),
    ],
)
def test_the_end_tokens_are_config_jsons_where_there_is_no_generation_config(tmp_path, config, generation, ends):
    one_file(tmp_path)
    configure(tmp_path, eos_token="<|endoftext|>")
    write(tmp_path / "config.json", config)
    if generation is not None:
        write(tmp_path / "generation_config.json", generation)
    assert load(tmp_path).eos_ids == ends
