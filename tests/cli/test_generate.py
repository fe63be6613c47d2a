"""`luthier generate` as a person types it: what comes on stdout, on stderr, and the exit code."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import fields

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

import luthier
from luthier.architectures import llama, registry
from luthier.cli.main import main
from luthier.cli.screen import BOLD, PLAIN
from luthier.errors import Remark
from luthier.generation.generate import encode_prompts
from luthier.generation.settings import GenerationSettings
from luthier.language_model import LanguageModel
from luthier.tokenizers.core.tokenizer import Tokenizer


def byte_tokenizer(eos):
    """A token for each byte, and perhaps one that ends a text."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, eos=eos)


def save_model(folder, eos="<|endoftext|>", n_layers=2):
    config = llama.Config(257, 64, 32, 64, n_layers, 4, 2)
    model = registry.build(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # a fresh model is unsure of everything
    LanguageModel(model, byte_tokenizer(eos), config).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "llama")


def run(capsys, *arguments):
    code = main(["generate", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_one_prompt_is_printed_with_its_text(folder, capsys):
    code, out, err = run(capsys, folder, "Hello", "--max-new-tokens", "12", "--temperature", "0")
    assert code == 0
    assert out == "Hello" + luthier.load(folder).generate("Hello", max_new_tokens=12, temperature=0)[0] + "\n"
    assert err.startswith("12 tokens in ")
    assert err.endswith(" tokens/s\n")


def test_one_prompt_comes_as_it_is_written(folder, monkeypatch):
    class Recorder(io.StringIO):
        def __init__(self):
            super().__init__()
            self.shown = []

        def flush(self):
            self.shown.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", recorder := Recorder())
    assert main(["generate", folder, "Hello", "--max-new-tokens", "12"]) == 0
    assert recorder.shown[0] == "Hello"
    assert len(set(recorder.shown)) > 6


def test_several_prompts_are_parted_by_a_line(folder, capsys):
    code, out, err = run(
        capsys, folder, "Hello", "you there", "--samples", "2", "--max-new-tokens", "5", "--top-k", "9"
    )
    texts = luthier.load(folder).generate(["Hello", "you there"], samples=2, max_new_tokens=5, top_k=9)
    prompts = ["Hello", "Hello", "you there", "you there"]
    assert code == 0
    assert out == "---\n".join(prompt + text + "\n" for prompt, text in zip(prompts, texts, strict=True))
    assert "20 tokens in" in err


def test_a_dash_reads_the_prompt_from_stdin(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("née\n".encode())))
    code, out, _ = run(capsys, folder, "-", "--max-new-tokens", "3")
    assert code == 0
    assert out == "née" + luthier.load(folder).generate("née", max_new_tokens=3)[0] + "\n"


def test_every_way_of_choosing_tokens_can_be_asked_for(folder, capsys):
    few = ("--max-new-tokens", "6")
    _, plain, _ = run(capsys, folder, "Hello", *few)
    assert run(capsys, folder, "Hello", *few, "--no-use-cache")[1] == plain
    assert run(capsys, folder, "Hello", *few, "--device", "cpu", "--dtype", "float32")[1] == plain
    others = [("--beams", "3"), ("--seed", "5"), ("--temperature", "3", "--top-p", "1"), ("--repetition-penalty", "9")]
    for options in others:
        code, out, _ = run(capsys, folder, "Hello", *few, *options)
        assert (code, out != plain, out.startswith("Hello")) == (0, True, True), options
    assert run(capsys, folder, "Hello", *few, "--dtype", "bfloat16", "--min-p", "0.1", "--length-penalty", "2")[0] == 0
    stopped = run(capsys, folder, "Hello", *few, "--stop", "never", "--stop", plain[6:8])[1]
    assert stopped == plain[:6] + "\n"


def test_an_empty_prompt_begins_a_text_where_the_tokenizer_can(folder, capsys, tmp_path):
    code, out, _ = run(capsys, folder, "", "--max-new-tokens", "5")
    assert code == 0
    assert len(out) > 1
    mute = save_model(tmp_path / "mute", eos=None)
    code, out, err = run(capsys, mute, "")
    assert (code, out) == (1, "")
    assert "the prompt is empty" in err


def test_a_full_context_is_said_on_stderr(folder, capsys, tmp_path):
    endless = save_model(tmp_path / "endless", eos=None)
    code, _, err = run(capsys, endless, "Hello", "x" * 60, "--max-new-tokens", "10")
    assert code == 0
    assert "14 tokens in" in err
    assert "1 of 2 texts ended where the model's context of 64 tokens is full" in err


def test_a_terminal_gets_a_bold_prompt_and_no_control_characters(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = run(capsys, folder, "a\033[2Jb\tc", "--max-new-tokens", "60", "--temperature", "5", "--top-p", "1")
    assert code == 0
    assert out.startswith(f"{BOLD}a␛[2Jb\tc{PLAIN}")
    assert not set(out.removeprefix(BOLD).replace(PLAIN, "")) & {
        chr(code) for code in (*range(9), 11, 13, 27, 127, 155)
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("Hello", "--temperature", "-1"), 2, "--temperature is -1.0: it must be 0"),
        (("Hello", "--top-p", "1.5"), 2, "--top-p is 1.5"),
        (("Hello", "--beams", "2", "--samples", "2"), 2, "beam search gives one text per prompt"),
        (("Hello", "--stop", ""), 2, "stop is"),
        ((), 2, "no prompt"),
        (("-", "-"), 2, "stdin"),
        (("x" * 64,), 1, "the prompt has 64 tokens and the model's context holds 64"),
        (("a\udcff",), 2, "the prompt is not UTF-8: its byte 2 is 0xff"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(folder, capsys, arguments, code, message):
    got, out, err = run(capsys, folder, *arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert err.startswith("luthier: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", [("--nope",), ("--dtype", "int3"), ("--seed", "many")])
def test_an_option_that_does_not_exist_is_exit_code_2(folder, capsys, option):
    code, out, err = run(capsys, folder, "Hello", *option)
    assert (code, out) == (2, "")
    assert option[0] in err


def test_a_device_that_is_not_there_is_an_error(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, out, err = run(capsys, folder, "Hello", "--device", "cuda")
    assert (code, out) == (1, "")
    assert "device cuda" in err


def test_a_missing_model_is_an_error(tmp_path, capsys):
    code, out, err = run(capsys, str(tmp_path / "nothing"), "Hello")
    assert (code, out) == (1, "")
    assert "nothing" in err


def test_stdin_that_is_not_utf8_is_an_error(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    code, out, err = run(capsys, folder, "-")
    assert (code, out) == (1, "")
    assert "byte 2" in err


def test_help_names_every_setting(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for item in fields(GenerationSettings):
        assert f"--{item.name.replace('_', '-')}" in out


def test_a_draft_changes_nothing_but_is_counted(folder, capsys, tmp_path):
    draft = save_model(tmp_path / "draft", n_layers=1)
    some = ("--max-new-tokens", "20", "--seed", "2")
    _, plain, _ = run(capsys, folder, "Hello", *some)
    code, out, err = run(capsys, folder, "Hello", *some, "--draft", draft)
    assert (code, out) == (0, plain)
    assert re.fullmatch(r"20 tokens in [\d.]+ s: [\d.]+ tokens/s, \d+ of \d+ drafted tokens accepted\n", err)
    _, _, err = run(capsys, folder, "Hello", *some, "--draft", folder)
    assert int(re.search(r"(\d+) of \d+ drafted", err)[1]) > 5  # it guesses in few bits
    for several in (("--samples", "2"), ("--beams", "2")):
        _, plain, _ = run(capsys, folder, "Hello", *some, *several)
        code, out, err = run(capsys, folder, "Hello", *some, *several, "--draft", draft)
        assert (code, out) == (0, plain)
        assert "the draft guesses for a single text without beam search: it is not asked here" in err
        assert "came true" not in err


def test_a_draft_with_another_vocabulary_is_refused(folder, capsys, tmp_path):
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True), "<|endoftext|>"]
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    config = llama.Config(257, 64, 32, 64, 1, 4, 2)
    LanguageModel(registry.build(config), Tokenizer(backend), config).save(tmp_path / "other")
    code, out, err = run(capsys, folder, "Hello", "--draft", str(tmp_path / "other"))
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'other'} has another vocabulary than the model: its token 0 is " in err
    assert "luthier train --tokenizer MODEL" in err
    assert err.count("\n") == 1


def test_special_tokens_in_a_prompt_are_read_as_such_where_that_is_asked_for(folder, capsys):
    prompt, settings = "Hi<|endoftext|>a", ("--max-new-tokens", "8", "--temperature", "0")
    lm = luthier.load(folder)
    [special] = lm.generate(prompt, max_new_tokens=8, temperature=0, special=True)
    assert "".join(lm.stream(prompt, max_new_tokens=8, temperature=0, special=True)) == special
    with pytest.warns(Remark, match=r"the prompt has <\|endoftext\|> in it, read as plain text .*: special=True"):
        [plain] = lm.generate(prompt, max_new_tokens=8, temperature=0)
    code, out, err = run(capsys, folder, prompt, "--special", *settings)
    assert (code, out) == (0, f"{prompt}{special}\n")
    assert "plain text" not in err
    code, out, err = run(capsys, folder, prompt, *settings)
    assert (code, out) == (0, f"{prompt}{plain}\n")
    assert err.startswith(
        "luthier: the prompt has <|endoftext|> in it, read as plain text and not as a special token: "
    )
    assert "--special" in err
    assert special != plain


def test_a_prompt_that_writes_the_token_that_begins_a_text_begins_so_once():
    name, backend = "<|endoftext|>", byte_tokenizer("<|endoftext|>").backend
    backend.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, 256)])
    tokenizer = Tokenizer(backend, bos=name, eos=name)
    [a] = tokenizer.encode("a")
    assert encode_prompts(tokenizer, [f"{name}a", "a", ""], special=True) == [[256, a], [256, a], [256]]
