from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hostile_texts import HOSTILE, TEXT, sentencepiece_model
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.load import load

KINDS = ["characters", "bpe", "gpt2", "llama3", "llama4", "sentencepiece bpe", "sentencepiece unigram"]


@pytest.fixture
def bpe() -> Tokenizer:
    return train_bpe([TEXT], 400)


@pytest.fixture
def folder(bpe, tmp_path) -> Path:
    """A folder as others write it: a tokenizer.json alone."""
    bpe.backend.add_special_tokens([AddedToken(f"<{name}>", special=True) for name in ("begin", "end", "turn", "pad")])
    bpe.backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_changes_nothing(kinds, kind, tmp_path):
    kinds[kind].save(tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert again.fingerprint == kinds[kind].fingerprint
    assert again.roles == kinds[kind].roles
    assert again.special_tokens == kinds[kind].special_tokens
    assert again.encode_batch(HOSTILE) == kinds[kind].encode_batch(HOSTILE)
    assert again.pieces == kinds[kind].pieces
    assert load(tmp_path / "new" / "folder" / "tokenizer.json").roles == kinds[kind].roles
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_fingerprints_tell_tokenizers_apart(kinds):
    prints = [tokenizer.fingerprint for tokenizer in kinds.values()]
    assert len(set(prints)) == len(prints)
    assert all(len(bytes.fromhex(fingerprint)) == 32 for fingerprint in prints)
    assert characters(["ab"]).fingerprint != characters(["abc"]).fingerprint


def test_roles_are_those_of_the_config(folder):
    write(folder / "tokenizer_config.json", bos_token="<begin>", eos_token={"content": "<end>"})
    write(folder / "special_tokens_map.json", unk_token="<pad>")
    tokenizer = load(folder)
    assert [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id] == [400, 401, None, 403]
    assert tokenizer.vocab_size == 404


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "pad_token"])
def test_a_role_whose_token_is_not_there_is_an_error_that_names_both(folder, role):
    write(folder / "tokenizer_config.json", **{role: "<nowhere>"})
    with pytest.raises(LuthierError, match=f"the {role} '<nowhere>' that tokenizer_config.json .* is not in the voc"):
        load(folder)


def test_without_a_config_no_token_has_a_role(folder):
    tokenizer = load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eos_ids) == (None, None, ())
    assert tokenizer.encode("a", bos=True, eos=True) == tokenizer.encode("a")


@pytest.mark.parametrize(
    ("given", "ends"), [([402, 401], (402, 401)), (402, (402,)), ([401, 9999], (401,)), (None, (401,))]
)
def test_the_ends_are_those_of_the_generation_config(folder, given, ends):
    write(folder / "tokenizer_config.json", eos_token="<end>")
    write(folder / "generation_config.json", eos_token_id=given)
    assert load(folder).eos_ids == ends


def test_the_chat_templates_own_file_counts_most(folder):
    write(folder / "tokenizer_config.json", chat_template="old")
    assert load(folder).chat_template == "old"
    (folder / "chat_template.jinja").write_text("new: {{ messages }}")
    assert load(folder).chat_template == "new: {{ messages }}"
    (folder / "chat_template.jinja").unlink()
    write(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}],
    )
    assert load(folder).chat_template == "d"


def test_tokens_that_only_the_config_lists_are_added(folder):
    write(folder / "tokenizer_config.json", added_tokens_decoder={"404": {"content": "<new>", "special": True}})
    assert load(folder).special_tokens["<new>"] == 404
    write(folder / "tokenizer_config.json", added_tokens_decoder={"999": {"content": "<far>", "special": True}})
    with pytest.raises(LuthierError, match="'<far>' cannot be token 999"):
        load(folder)


def test_the_begin_token_is_put_where_the_files_say_so(folder):
    write(folder / "tokenizer_config.json", bos_token="<begin>", add_bos_token=True)
    assert load(folder).adds_bos
    load(folder).save(folder / "again")
    assert load(folder / "again").adds_bos
    write(folder / "again" / "tokenizer_config.json", bos_token="<begin>", add_bos_token=False)
    assert not load(folder / "again").adds_bos


def test_truncation_and_padding_in_a_file_are_left_out(bpe, tmp_path):
    bpe.backend.enable_truncation(3)
    bpe.backend.enable_padding(length=9)
    bpe.backend.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path).encode(TEXT) == train_bpe([TEXT], 400).encode(TEXT)


def test_saving_over_another_tokenizer_leaves_nothing_of_it(bpe, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("old")
    write(tmp_path / "special_tokens_map.json", eos_token="a")
    (tmp_path / "model.safetensors").write_text("not ours")
    bpe.save(tmp_path)
    assert load(tmp_path).chat_template is None
    assert load(tmp_path).roles == bpe.roles
    assert (tmp_path / "model.safetensors").exists()


def test_a_failed_save_leaves_the_old_file_whole(bpe, tmp_path, monkeypatch):
    characters(["abc"]).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LuthierError, match=r"cannot write .*: No space left on device"):
        bpe.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saved_files_can_be_read_by_others(bpe, tmp_path):
    bpe.save(tmp_path)
    mask = os.umask(0)
    os.umask(mask)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask for path in tmp_path.iterdir())


def test_a_folder_where_a_file_stands_is_a_clear_error(bpe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LuthierError, match=r"cannot write .*file"):
        bpe.save(tmp_path / "file")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "[" * 100_000, '{"model": 5}', '{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_json_is_a_clear_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LuthierError, match=r"tokenizer\.json is not a tokenizer\.json: "):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},  # the backend panics
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 4_000_000_000}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    ],
)
def test_a_hostile_tokenizer_json_is_a_clear_error(folder, change):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LuthierError, match=r"tokenizer\.json"):
        load(folder)


def replaces(old: str, new: str, kind: str = "String") -> dict[str, object]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def nested(step: dict[str, object], times: int = 40) -> dict[str, object]:
    return {"type": "Sequence", "normalizers": [replaces("Q", "a"), *[step] * times]}


@pytest.mark.parametrize("step", [replaces("a", "aa"), replaces(".", "ab", "Regex"), replaces("", "a", "Regex")])
def test_a_normalizer_that_makes_texts_grow_without_end_is_stopped(folder, step):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": nested(step)}))
    tokenizer = load(folder)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_arrays([text])):
        with pytest.raises(LuthierError, match="makes a text of 2 characters over 32 times longer"):
            encode("Qb")


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": replaces("a", 1000 * "a")},
        {"normalizer": {"type": "Prepend", "prepend": 1000 * "a"}},
        {"decoder": {"type": "Sequence", "decoders": [replaces("a", "aa")] * 40}},
    ],
)
def test_a_step_that_makes_texts_far_longer_is_refused(folder, part):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | part))
    with pytest.raises(LuthierError, match=r"tokenizer\.json: .* makes texts up to"):
        load(folder)


def test_what_is_wrong_with_a_pattern_is_said_in_one_line(folder, capfd):
    path, split = folder / "tokenizer.json", {"type": "Split", "behavior": "Isolated", "invert": False}
    for part in (
        {"pre_tokenizer": split | {"pattern": {"Regex": "(" * 100}}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"pattern": {"Regex": "("}}]}},
        {"normalizer": replaces("(", "", "Regex")},
        {"decoder": replaces("(", "", "Regex")},
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | part))
        with pytest.raises(
            LuthierError, match=r"tokenizer\.json: '\(+(\.\.\.)?' is not a regular expression: end pattern"
        ):
            load(folder)
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {
                "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
                "decoder": None,
                "pre_tokenizer": None,
            }
        )
    )
    with pytest.raises(LuthierError, match="precompiled_charsmap is invalid"):
        load(folder)
    assert capfd.readouterr().err == ""  # the backend would print a panic and where it came from


@pytest.mark.parametrize(
    "settings", [{"eos_token": 5}, {"added_tokens_decoder": {"x": {}}}, {"added_tokens_decoder": [1]}]
)
def test_a_config_that_makes_no_sense_is_a_clear_error(folder, settings):
    write(folder / "tokenizer_config.json", **settings)
    with pytest.raises(LuthierError, match=r"tokenizer_config\.json cannot be understood"):
        load(folder)


def test_what_is_not_there_is_an_error_that_says_what_can_be_given(tmp_path):
    with pytest.raises(LuthierError, match=r'there is no tokenizer .*nowhere: give a folder .* or "gpt2"'):
        load(tmp_path / "nowhere")
    with pytest.raises(LuthierError, match=r"contains no tokenizer: give a folder"):
        load(tmp_path)


def test_a_sentencepiece_folder_takes_its_roles_from_the_config(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(model_type="bpe"))
    size = load(tmp_path).vocab_size
    added = {str(size): {"content": "<pad>", "special": True}}
    write(tmp_path / "tokenizer_config.json", pad_token="<pad>", added_tokens_decoder=added, add_bos_token=True)
    tokenizer = load(tmp_path)
    assert (tokenizer.pad_id, tokenizer.vocab_size, tokenizer.adds_bos) == (size, size + 1, True)


def test_special_tokens_in_text_are_no_tokens_of_a_unigram_file_of_others(tmp_path):
    """As in T5's file: the model would find "</s>" among its pieces, and the text has characters it does not know."""
    scores = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        ("s", -3.0),
        ("a", -3.0),
        ("/", -4.0),
        (">", -4.0),
    ]
    for pieces in (scores, [*scores, ("<", -4.0), ("</", -5.0), ("/s", -5.0), ("s>", -5.0)]):
        backend = Backend(models.Unigram(pieces, unk_id=2))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
        backend.save(str(tmp_path / "tokenizer.json"))
        write(tmp_path / "tokenizer_config.json", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
        tokenizer = load(tmp_path)
        assert 1 not in tokenizer.encode("a</s>a")
        assert 0 not in tokenizer.encode("<pad>")
        assert tokenizer.encode("a</s>", special=True)[-1] == 1
        assert tokenizer.decode(tokenizer.encode("sa a")) == "sa a"
        tokenizer.save(tmp_path / "again")
        assert load(tmp_path / "again").fingerprint == tokenizer.fingerprint


def test_a_file_whose_pieces_do_not_simply_join_is_decoded_by_its_own_rules(tmp_path):
    words = ["[UNK]", "[CLS]", "[SEP]", "play", "##ing", "the", "game", "."]
    backend = Backend(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path / "tokenizer.json")
    ids = tokenizer.encode("Playing the game.")
    assert ids == [3, 4, 5, 6, 7]
    assert tokenizer.decode(ids) == "playing the game."
    assert tokenizer.decode([1, *ids, 2], skip_special=True) == "playing the game."
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == "playing the game."
    assert tokenizer.piece(4) == b"##ing"
