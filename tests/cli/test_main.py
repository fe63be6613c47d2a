"""The first word of the command line, and how errors leave."""

from __future__ import annotations

import subprocess
import sys

import pytest

from luthier.cli import main as module
from luthier.cli.main import VERBS, main
from luthier.errors import LuthierError, UsageError

HEAVY = ("torch", "tyro", "rich", "numpy", "tokenizers", "matplotlib", "msgspec", "jinja2", "prompt_toolkit", "gguf")


@pytest.mark.parametrize(
    "code",
    ["import luthier", "from luthier.cli.main import main; assert main(['--help']) == 0", "import luthier.cli.main"],
)
def test_help_and_import_load_nothing_heavy(code):
    check = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_verb(arguments, capsys):
    assert main(arguments) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines == list(VERBS)


def test_the_version(capsys):
    import luthier

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"luthier {luthier.__version__}\n"


@pytest.mark.parametrize(
    ("verb", "hint"), [("trian", "did you mean 'train'?"), ("xyz", "the verbs are train, torchrun, generate, chat")]
)
def test_an_unknown_verb_names_the_nearest(verb, hint, capsys):
    assert main([verb]) == 2
    assert f"luthier: no verb '{verb}': {hint}" in capsys.readouterr().err


class Interrupted(LuthierError):
    exit_code = 130


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LuthierError("no such thing: make one"), 1, "luthier: no such thing: make one"),
        (UsageError("dim is 3"), 2, "luthier: dim is 3"),
        (Interrupted("stopped at step 3"), 130, "luthier: stopped at step 3"),
        (KeyboardInterrupt(), 130, "luthier: interrupted"),
        (
            ZeroDivisionError("by zero"),
            1,
            "luthier: unexpected ZeroDivisionError: by zero (run again with --debug to see",
        ),
        (SystemExit(2), 2, ""),
        (SystemExit(0), 0, ""),
    ],
)
def test_each_error_is_one_line_and_an_exit_code_and_a_traceback_only_with_debug(
    error, code, line, capsys, monkeypatch
):
    def fail(arguments: list[str]) -> int:
        assert "--debug" not in arguments
        raise error

    monkeypatch.setattr(module, "run", fail)
    assert main(["train"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == bool(line)
    if not isinstance(error, SystemExit):
        with pytest.raises(type(error)):
            main(["train", "--debug"])


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m luthier data list | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
