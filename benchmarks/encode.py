"""Speed of encoding a corpus, beside tiktoken and tokenizers, and of reading its tokens back, beside copying memory.

    python benchmarks/encode.py --json encode.json
    python benchmarks/encode.py book.txt code/*.py --megabytes 20

Without files, the text is the standard library of the running Python: its sources, and its documentation. All encode
the same chunks, and their ids are compared. Every round begins with fresh tokenizers, whose first sight of each word is
timed, too. One core is timed by the processor's time, all cores by the clock, with the start of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer as Backend

from luthier.data import python_docs
from luthier.data.batches import RandomWindows
from luthier.data.encoding import Encoding, cores, processes_for
from luthier.data.shards import TokenShards
from luthier.tokenizers.core.tokenizer import Tokenizer
from luthier.tokenizers.core.train import characters, train_bpe
from luthier.tokenizers.formats.gguf_words import words_of
from luthier.tokenizers.formats.tiktoken_model import LLAMA3_WORDS, LLAMA4_WORDS
from luthier.tokenizers.load import load
from luthier.tokenizers.words import word_patterns

CHUNK, BATCH = 1 << 16, 16  # characters, and chunks that go to a process at once
TRAINED = 8192  # tokens of the vocabulary that is trained here
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # tiktoken's own
SMOLLM_WORDS = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?![^\s\p{N}])|\s"
SHAPES = ((64, 256), (64, 1024))  # rows and tokens of a batch that is read back
Encode = Callable[[list[str]], list[Any]]  # chunks to the ids of each


@dataclass
class Contest:
    """A tokenizer and a text, and what all have shown: MB/s."""

    tokenizer: str
    text: str
    chunks: list[str]
    megabytes: float
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, encode: Encode, clock: Callable[[], float]) -> list[Any]:
        """Encode all chunks once."""
        start = clock()
        rows = encode(self.chunks)
        self.rounds.setdefault(name, []).append(self.megabytes / (clock() - start))
        return rows


def ours(tokenizer: Tokenizer, chunks: list[str]) -> list[Any]:
    """On one core."""
    return tokenizer.encode_arrays(chunks)


def ours_on_all_cores(tokenizer: Tokenizer, chunks: list[str]) -> list[Any]:
    """As `luthier data prepare` does: in processes, where the tokenizer and the length of the text gain by them."""
    batches = [chunks[i : i + BATCH] for i in range(0, len(chunks), BATCH)]
    with Encoding(tokenizer, processes_for(tokenizer, sum(map(len, chunks)))) as encoding:
        return [ids for _, rows in encoding.in_order(batches, list) for ids in rows]


def backends(backend: Backend, parallel: bool, chunks: list[str]) -> list[Any]:
    """Hugging Face's tokenizers, by its fastest call."""
    os.environ["TOKENIZERS_PARALLELISM"] = str(parallel).lower()
    backend.encode_special_tokens = True  # written in a text, they are plain text
    return [row.ids for row in backend.encode_batch_fast(chunks, add_special_tokens=False)]


def tiktokens(tokenizer: Tokenizer, words: str) -> tiktoken.Encoding:
    """The same vocabulary in tiktoken, which takes its ids for ranks."""
    special = set(tokenizer.special_tokens.values())
    ranks = {tokenizer.piece(number): number for number in range(tokenizer.vocab_size) if number not in special}
    return tiktoken.Encoding("the same", pat_str=words, mergeable_ranks=ranks, special_tokens={})


def run_round(contest: Contest, tokenizer: Tokenizer, peer: tiktoken.Encoding | None) -> None:
    """Everyone once, on one core and on all."""
    content = tokenizer.to_json()

    def fresh() -> Tokenizer:
        word_patterns._runs.cache_clear()
        return Tokenizer(Backend.from_str(content))

    found = [contest.time("luthier", partial(ours, fresh()), time.process_time)]
    if peer is not None:
        found.append(
            contest.time("tiktoken", lambda chunks: list(map(peer.encode_ordinary, chunks)), time.process_time)
        )
    found.append(contest.time("tokenizers", partial(backends, fresh().backend, False), time.process_time))
    found.append(contest.time("luthier, all cores", partial(ours_on_all_cores, fresh()), time.perf_counter))
    if peer is not None:
        many = partial(peer.encode_ordinary_batch, num_threads=cores())
        found.append(contest.time("tiktoken, all cores", many, time.perf_counter))
    found.append(contest.time("tokenizers, all cores", partial(backends, fresh().backend, True), time.perf_counter))
    first, *others = ([np.asarray(ids).tolist() for ids in rows] for rows in found)
    if any(other != first for other in others):
        raise SystemExit(f"{contest.tokenizer}, {contest.text}: the ids differ")


def reading_back(ids: NDArray[np.uint32], seconds: float) -> dict[str, float]:
    """GB/s of batches: inputs and targets in 64 bits, gathered from random places of 16-bit shards."""
    shards = TokenShards([np.resize(ids, 2**27).astype(np.uint16)])  # 256 MB, more than caches hold
    return {
        f"batches of {rows} x {length}, GB/s": speed(
            RandomWindows(shards, length, rows, seed=0).next_batch, 16 * rows * length, seconds
        )
        for rows, length in SHAPES
    }


def memory(seconds: float) -> dict[str, float]:
    """What the machine can do on one core, GB/s."""
    numbers = np.ones(2**25, np.int64)  # 256 MB
    copy, small = np.empty_like(numbers), np.ones(2**16, np.int64)
    return {
        "limit: reading memory, GB/s": speed(numbers.sum, numbers.nbytes, seconds),
        "limit: copying memory, GB/s written": speed(partial(np.copyto, copy, numbers), copy.nbytes, seconds),
        "limit: copying within a cache, GB/s written": speed(small.copy, small.nbytes, seconds),
    }


def speed(work: Callable[[], Any], size: int, seconds: float) -> float:
    """GB/s of processor time: the best of many goes at work of some bytes."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.process_time()
        for _ in range(8):
            work()
        best = min(best, (time.process_time() - start) / 8)
    return size / best / 1e9


def texts_of(paths: list[Path], most: int) -> Iterator[tuple[str, list[str]]]:
    """Named texts in chunks that end with a line, of so many characters at most."""
    named = {path.name: [path] for path in paths} or {
        "Python's sources": sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    }
    for name, files in named.items():
        yield name, chunks_of((file.read_text(encoding="utf-8", errors="replace") for file in files), most)
    if not paths:
        yield "Python's documentation", chunks_of(python_docs.documents(), most)


def chunks_of(texts: Iterator[str], most: int) -> list[str]:
    """Runs of lines."""
    chunks, lines, size = [], [], 0
    for line in (line for text in texts for line in text.splitlines(keepends=True)):
        lines.append(line)
        size += len(line)
        if size >= min(CHUNK, most):
            chunks.append("".join(lines))
            most, lines, size = most - size, [], 0
        if most <= 0:
            break
    return [*chunks, "".join(lines)] if lines else chunks


def tokenizers_of(chunks: list[str], only: str) -> Iterator[tuple[str, Tokenizer, str | None]]:
    """Each kind with its name, and the pattern that tiktoken is given for it."""
    trained = train_bpe(chunks[:16], TRAINED)
    made: list[tuple[str, Tokenizer, str | None]] = [
        ("GPT-2", load("gpt2"), GPT2_WORDS),
        (f"BPE of {TRAINED} trained here", trained, GPT2_WORDS),
        ("its words as in Llama 3", parting(trained, "llama-bpe"), LLAMA3_WORDS),
        ("its words as in Llama 4", parting(trained, "llama4"), LLAMA4_WORDS),
        ("its words as in SmolLM2", parting(trained, "smollm"), SMOLLM_WORDS),
        ("characters", characters(chunks), None),
    ]
    return (each for each in made if only in each[0])


def parting(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """A tokenizer with the same vocabulary that parts words in another way."""
    backend = Backend(tokenizer.backend.model)
    backend.pre_tokenizer, backend.decoder = words_of(name).pre_tokenizer, tokenizer.backend.decoder
    return Tokenizer(backend)


def race(paths: list[Path], megabytes: float, rounds: int, only: str, *, smoke: bool) -> dict[str, Any]:
    """All rounds of the tokenizers whose names have `only` in them, on all texts."""
    contests, loads = [], [os.getloadavg()[0]]
    for text, chunks in texts_of(paths, int(megabytes * 1e6)):
        for name, tokenizer, words in tokenizers_of(chunks, only):
            contest = Contest(name, text, chunks, sum(len(chunk.encode()) for chunk in chunks) / 1e6)
            peer = None if words is None else tiktokens(tokenizer, words)
            for _ in range(rounds):
                run_round(contest, tokenizer, peer)
            contests.append(contest)
            loads.append(os.getloadavg()[0])
    ids = np.concatenate(load("gpt2").encode_arrays(contests[-1].chunks))
    seconds = 0.05 if smoke else 1.0
    return {
        "machine": {
            "processor": platform.processor(),
            "cores": cores(),
            "python": platform.python_version(),
            "loads": loads,
        },
        "rounds": rounds,
        "contests": [
            {
                "tokenizer": contest.tokenizer,
                "text": contest.text,
                "megabytes": contest.megabytes,
                "MB_per_second": {name: statistics.median(found) for name, found in contest.rounds.items()},
                "rounds": contest.rounds,
            }
            for contest in contests
        ],
        "reading back": reading_back(ids, seconds),
        "limits": memory(seconds),
    }


def show(record: dict[str, Any]) -> None:
    """One table of MB/s, the machine's limits last."""
    table = Table(title=f"MB/s, {record['machine']['cores']} cores", title_justify="left")
    table.add_column("", no_wrap=True)
    names = ("luthier", "tiktoken", "tokenizers")
    for where in ("one core", "all cores"):
        for name in names:
            table.add_column(f"{name}, {where}", justify="right")
    for contest in record["contests"]:
        speeds = contest["MB_per_second"]
        found = [speeds.get(name + where) for where in ("", ", all cores") for name in names]
        title = f"{contest['tokenizer']}: {contest['text']}, {contest['megabytes']:.1f} MB"
        table.add_row(title, *("" if value is None else f"{value:.1f}" for value in found))
    table.add_section()
    for name, value in {**record["reading back"], **record["limits"]}.items():
        table.add_row(name, f"{value:.1f}")
    Console(width=None if Console().is_terminal else 180).print(table)


def main() -> None:
    """Read the options, race, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="*", help="text files in UTF-8")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=12, help="of each text at most")
    parser.add_argument("--only", default="", help="tokenizers with these words in their names, instead of all")
    parser.add_argument("--smoke", action="store_true", help="little text and one round: does it run?")
    given = parser.parse_args()
    megabytes, rounds = (0.2, 1) if given.smoke else (given.megabytes, given.rounds)
    record = race(given.texts, megabytes, rounds, given.only, smoke=given.smoke)
    show(record)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
