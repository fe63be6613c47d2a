"""`luthier train`: the command line, whole."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from luthier.cli.main import main
from luthier.cli.run_arguments import parse

TINY = (  # noqa: SIM905
    "--tokenizer characters --batch-size 2 --model.dim 8 --model.hidden-dim 12 --model.n-layers 1 --model.n-heads 2 "
    "--model.n-kv-heads 1 --model.context-length 16 --precision float32 --compile no --eval-batches 2"
).split()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(1)
    words = ["".join(draw.choices(["ka", "lo", "mi", "té", "ru"], k=2)) for _ in range(200)]
    Path("book.txt").write_text(" ".join(words), encoding="utf-8")


def test_a_preset_shows_its_own_model_options(capsys):
    assert main(["train", "--preset", "llama4-nano", "--help"]) == 0
    assert "--model.n-experts INT" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "--model.n-experts" not in capsys.readouterr().out


def test_train_stop_and_go_on(capsys):
    assert main(["train", "book.txt", *TINY, "--steps", "3", "--out", "run"]) == 0
    assert "done in" in capsys.readouterr().out
    assert main(["train", "--out", "run", "--resume"]) == 1
    assert "give more --steps or --epochs" in capsys.readouterr().err
    assert main(["train", "--out", "run", "--resume", "--steps", "5"]) == 0
    assert main(["train", "--out", "run", "--resume", "--steps", "6", "--learning-rate", "0.5"]) == 2
    assert "--learning-rate is 0.001, not 0.5" in capsys.readouterr().err
    assert main(["train", "--out", "run", "--resume", "--epochs", "0.5"]) == 0  # steps were given before
    assert "epochs = 0.5" in Path("run/run.toml").read_text()


def test_the_folder_and_the_recipe_speak_where_the_command_line_does_not(capsys):
    Path("mine.toml").write_text(
        'data = "book.txt"\npreset = "llama-micro"\ntokenizer = "characters"\nepochs = 3\n[model]\ndim = 24\n'
    )
    given = parse("train", "", ["--recipe", "mine.toml"])
    assert (given.plan.data, given.plan.model.dim, given.asked.out) == (("book.txt",), 24, Path("runs/mine"))
    given = parse("train", "", ["--recipe", "mine.toml", "--steps", "7", "--model.n-layers", "2"])
    assert (given.plan.settings.steps, given.plan.settings.epochs, given.plan.model.n_layers) == (7, 0, 2)
    given = parse("train", "", ["--recipe", "mine.toml", "--preset", "gpt2-nano"])
    assert (given.plan.model.dim, given.plan.settings.tokenizer) == (128, "characters")
    given = parse("train", "", ["--recipe", "mine.toml", "--vocab-size", "777"])
    assert given.plan.model.vocab_size == 777
    assert parse("train", "", []).asked.out == Path("runs/llama-nano")


def test_a_run_named_like_a_recipe_is_resumed_from_its_own_folder(capsys):
    assert main(["train", "book.txt", *TINY, "--steps", "2", "--out", "demo"]) == 0
    assert main(["train", "--out", "demo", "--resume", "--steps", "3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--preset", "lama-nano"], 2, "no preset 'lama-nano'. did you mean 'llama-nano'?"),
        (["--recipe", "curse"], 1, "no recipe curse: give a TOML file, a run's folder, or course, demo"),
        (["--learning-rat", "1"], 2, "--learning-rate"),
        (["--batch-size", "x"], 2, "--batch-size"),
        (["--batch-size", "0"], 2, "--batch-size is 0: it must be above 0"),
        (["--steps", "3", "--epochs", "2"], 2, "--steps 3 and --epochs 2 both end the run: give one of the two"),
        (["--out", "nowhere", "--resume"], 1, "nowhere is not a run that can be resumed: it has no run.toml"),
        (["--resume"], 1, "runs/llama-nano is not a run that can be resumed"),
        (["nothing.txt"], 1, "nothing.txt: no such file or folder"),
        (["book.txt", "--tokenizer", "characters", "--model.dim", "9"], 2, "dim 9"),
        (["book.txt", "--tokenizer", "characters", "--model.context-length", "5000"], 2, "--model.context-length to"),
        (["--recipe", "bad.toml"], 2, "bad.toml has no setting learnin_rate: did you mean learning_rate?"),
        (["--recipe", "bad2.toml"], 2, "bad2.toml: model is a table"),
        (["book.txt", "--device", "cuda"], 1, "device cuda is not available"),
    ],
)  # fmt: skip
def test_a_wrong_command_says_what_is_right_and_leaves_nothing(arguments, code, complaint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("bad.toml").write_text("learnin_rate = 1.0\n")
    Path("bad2.toml").write_text("model = 3\n")
    assert main(["train", *arguments]) == code
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


@pytest.mark.slow
def test_ctrl_c_from_the_keyboard_saves_and_exits_with_130():
    command = [sys.executable, "-m", "luthier", "train", "book.txt", *TINY, "--steps", "100000", "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while run.poll() is None and not Path("run/metrics.jsonl").exists():
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    shown, errors = run.communicate(timeout=100)
    assert run.returncode == 130, errors
    assert "stopping after this step" in shown
    assert "\x1b" not in shown
    [line] = errors.splitlines()
    step = int(re.match(r"luthier: stopped at step (\d+) of 100000, saved in run/checkpoints/step-", line)[1])
    assert line.endswith("resume with: luthier train --out run --resume")
    assert main(["train", "--out", "run", "--resume", "--steps", str(step + 2)]) == 0
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == step + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "words"), [("", "no C++ compiler here"), ("false", "compiling does not work here")]
)
def test_without_a_compiler_that_works_it_says_so_and_trains(compiler, words):
    arguments = [word if word != "no" else "yes" for word in TINY]
    command = [sys.executable, "-m", "luthier", "train", "book.txt", *arguments, "--steps", "2", "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(Path.cwd())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "done in" in done.stdout


def test_a_burst_loss_prints_a_short_perplexity(capsys):
    burst = "--learning-rate 3000 --schedule constant --warmup 0 --steps 2 --eval-interval 1 --out run"
    assert main(["train", "book.txt", *TINY, *burst.split()]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"perplexity \d\.\d\de\+\d+|perplexity inf", shown), shown
    assert max(map(len, shown.splitlines())) < 250
