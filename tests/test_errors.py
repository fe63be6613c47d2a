"""Messages name settings as their reader writes them."""

from __future__ import annotations

import pytest

from luthier.architectures import registry
from luthier.cli.main import main
from luthier.data.sources import Texts
from luthier.errors import Interface, UsageError, interface, of_model, setting
from luthier.generation.settings import GenerationSettings as Generation
from luthier.training.settings import Settings


def test_a_setting_has_its_python_name_unless_a_command_line_is_used():
    assert setting("batch_size") == "batch_size"
    assert setting("invalid", "replace") == "invalid='replace'"
    assert of_model("context_length", 8) == "context_length=8"
    with interface(Interface(options=True)):
        assert setting("batch_size") == "--batch-size"
        assert setting("document_separator", "<|end|> x") == "--document-separator '<|end|> x'"
        assert setting("anyway", True) == "--anyway"
        assert of_model("context_length") == "context_length"  # this command has no option for it
        with interface(Interface(options=True, model_options=True)):
            assert of_model("context_length", 8) == "--model.context-length 8"
    assert setting("batch_size") == "batch_size"


@pytest.fixture
def latin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("un café ".encode("latin-1") * 500)
    (tmp_path / "book.txt").write_text("a text of words " * 20, encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("data prepare latin.txt --tokenizer gpt2 --out p", "--invalid replace"),
        ("train book.txt --tokenizer characters --model.context-length 9000", "lower --model.context-length to"),
        ("train book.txt --tokenizer characters --batch-size 0", "--batch-size is 0: it must be above 0"),
        ("train book.txt --model.dim 9 --model.n-heads 2", "--model.dim 9 does not divide into --model.n-heads 2"),
        (
            "train book.txt --preset llama-mini --model.dim 128",
            "--model.dim 128 does not divide into --model.n-heads 6",
        ),
        ("train book.txt --preset llama4-nano --model.dim 99 --model.n-heads 4", "--model.dim 99 does not divide into"),
        ("train book.txt --model.dim 12 --model.n-heads 4", "head_dim 3 (--model.dim / --model.n-heads) is odd"),
        ("train book.txt --steps 3 --epochs 2", "--steps 3 and --epochs 2 both end the run"),
        ("train book.txt --tokenizer characters --batch-size 1 --stride 4", "add --batches sliding"),
        ("generate no-model x --top-p 3", "--top-p is 3.0: it must be above 0"),
        ("eval no-model", "luthier eval MODEL ... DATA"),
        ("data prepare the-verdict.text --tokenizer gpt2 --out p", "there is a corpus the-verdict"),
    ],
)
def test_the_command_line_names_its_options(command, named, latin, capsys):
    assert main(command.split()) in (1, 2)
    shown = capsys.readouterr()
    assert named in shown.err, shown
    assert "unexpected" not in shown.err


def test_python_names_its_arguments(latin):
    with pytest.raises(Exception, match="invalid='replace'"):
        list(Texts(("latin.txt",)))
    with pytest.raises(UsageError, match=r"^batch_size is 0"):
        Settings(batch_size=0)
    with pytest.raises(UsageError, match=r"^top_p is 3"):
        Generation(top_p=3)
    with pytest.raises(UsageError, match=r"^dim 9 does not divide into n_heads 2"):
        registry.build_on_meta(registry.preset("gpt2-nano").__class__(dim=9, n_heads=2))


def test_a_recipe_is_named_with_its_own_names(latin, tmp_path, capsys):
    (tmp_path / "r.toml").write_text("learning_rate = -1.0\n", encoding="utf-8")
    assert main(["train", "book.txt", "--recipe", "r.toml"]) == 2
    assert "luthier: r.toml: learning_rate is -1.0: it must be above 0" in capsys.readouterr().err
    (tmp_path / "r.toml").write_text("steps = 'three'\n", encoding="utf-8")
    assert main(["train", "book.txt", "--recipe", "r.toml"]) == 2
    assert "luthier: r.toml: steps: Expected `int`, got `str`" in capsys.readouterr().err
