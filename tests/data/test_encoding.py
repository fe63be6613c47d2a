"""Batches encoded in other processes come back in order, and the processes never stay behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from luthier.data import encoding
from luthier.data import prepare as preparing
from luthier.data.encoding import COMMAND, Encoding, Process, processes_for
from luthier.data.prepare import prepare
from luthier.data.shards import open_tokens
from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe

from .small_tokenizers import WORDS

TEXTS = [f"{number} {WORDS[number % 40 :]}\n" * (1 + number % 5) for number in range(200)]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(TEXTS, 400)


def batches_of(texts: list[str], size: int = 9) -> list[list[str]]:
    return [texts[i : i + size] for i in range(0, len(texts), size)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_ids_come_in_the_order_of_the_text(bpe, processes):
    with Encoding(bpe, processes) as encoding:
        found = list(encoding.in_order(batches_of(TEXTS), list))
    assert [batch for batch, _ in found] == batches_of(TEXTS)
    assert [ids.tolist() for _, rows in found for ids in rows] == bpe.encode_batch(TEXTS)


def test_a_few_batches_are_read_ahead_and_no_more(bpe):
    read = 0

    def endless() -> Iterator[list[str]]:
        nonlocal read
        while True:
            read += 1
            yield ["ab"]

    with Encoding(bpe, 1) as encoding:
        results = encoding.in_order(endless(), list)
        for given in range(1, 20):
            next(results)
            assert read <= given + 1


def test_whoever_leaves_ends_the_processes(bpe):
    processes = []

    def leave() -> None:
        with Encoding(bpe, 2) as encoding:
            processes.extend(process.popen for process in encoding._all)
            next(encoding.in_order(batches_of(TEXTS), list))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert [process.poll() for process in processes] == [-9, -9]


def test_a_process_ends_with_the_one_that_started_it():
    code = (
        "import os, sys\n"
        "from luthier.data.encoding import Process\n"
        "from luthier.tokenizers.core.train import train_bpe\n"
        "process = Process(train_bpe(['ab ab'], 260))\n"
        "assert process.ask(['ab'])\n"
        "print(process.popen.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    pid, waited = int(done.stdout), time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_a_process_that_dies_is_an_error_that_says_so(bpe):
    with Encoding(bpe, 1) as encoding:
        results = encoding.in_order(batches_of(TEXTS), list)
        next(results)
        encoding._all[0].end()
        with pytest.raises(LuthierError, match=r"a process that encodes text has ended \(exit code -9\)"):
            list(results)


def test_what_a_tokenizer_says_of_a_text_comes_through():
    process = Process(characters(["abc"]))
    try:
        assert process.ask(["cab"])[0].tolist() == [3, 1, 2]
        with pytest.raises(LuthierError, match="character 1 of the text, 'x'"):
            process.ask(["axe"])
        assert process.ask(["a"])[0].tolist() == [1]
    finally:
        process.popen.communicate()
    assert process.popen.returncode == 0


def test_half_a_surrogate_pair_is_an_error_that_says_where(bpe):
    with Encoding(bpe, 1) as encoding, pytest.raises(LuthierError, match=r"character 1 .* half of a surrogate pair"):
        list(encoding.in_order([["a\ud83d"]], list))


def test_the_process_does_not_load_torch():
    code = f"import sys; sys.argv = {COMMAND[3:]}; import luthier.data.encoding_process as m\n"
    code += "import luthier.tokenizers.core.tokenizer\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_short_texts_and_other_tokenizers_need_no_processes(bpe, monkeypatch):
    monkeypatch.setattr(encoding, "cores", lambda: 4)
    assert processes_for(bpe, 10 * encoding.SHARE) == 4
    assert processes_for(bpe, 2 * encoding.SHARE) == 2
    assert processes_for(bpe, 2 * encoding.SHARE - 1) == 0
    assert processes_for(characters(["ab"]), 10 * encoding.SHARE) == 0
    monkeypatch.setattr(encoding, "cores", lambda: 1)
    assert processes_for(bpe, 10 * encoding.SHARE) == 0


def test_a_text_is_prepared_alike_in_one_process_and_in_several(bpe, tmp_path, monkeypatch):
    prepare(TEXTS, bpe, tmp_path / "one")
    monkeypatch.setattr(encoding, "SHARE", 1000)
    monkeypatch.setattr(encoding, "cores", lambda: 2)
    monkeypatch.setattr(preparing, "BATCH", 500)
    prepare(TEXTS, bpe, tmp_path / "several")
    for split in ("train", "validation"):
        one, several = (open_tokens(tmp_path / name, split, verify=True) for name in ("one", "several"))
        assert one[:].tolist() == several[:].tolist()
        assert one.documents.tolist() == several.documents.tolist()
        assert one.bytes == several.bytes
