"""Encoding a corpus on all cores: batches of texts go to processes, and their ids come back in the order of the text.

Finding words is Python's work, and a process does one such thing at a time: hence processes, not threads. They start
only where the text is long enough to pay for it, and only for tokenizers that encode by looking words up; the backends
of others use all cores by themselves.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import BinaryIO, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from luthier.data.encoding_process import DONE, IDS, parted, question, receive, send
from luthier.errors import LuthierError
from luthier.tokenizers.core.tokenizer import check

Rows = list[NDArray[np.uint32]]
Batch = TypeVar("Batch")
SHARE = 1 << 23  # characters that are worth a process: half a second of work, as long as it takes to start
COMMAND = (sys.executable, "-P", "-m", "luthier.data.encoding_process")


class Encoder(Protocol):
    """What a tokenizer has to offer here."""

    @property
    def encodes_words(self) -> bool:
        """Whether it is Python that works, on one core."""
        ...

    def encode_arrays(self, texts: Sequence[str]) -> Rows:
        """The ids of each text."""
        ...

    def to_json(self) -> str:
        """What tokenizer.json says."""
        ...


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(tokenizer: Encoder, characters: int) -> int:
    """How many processes encode a text of some length, 0 for none but this one."""
    many = min(cores(), characters // SHARE)
    return many if many > 1 and sys.executable and tokenizer.encodes_words else 0


class Process:
    """One that encodes what it is asked to."""

    def __init__(self, tokenizer: Encoder) -> None:
        self._tokenizer: Encoder | None = tokenizer
        path = os.pathsep.join(filter(None, sys.path))
        self.popen = subprocess.Popen(  # noqa: S603 (our own module)
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for this process, which then ends the other
        )

    def ask(self, texts: Sequence[str]) -> Rows:
        """The ids of each text. Raises LuthierError."""
        asked, answers = cast(BinaryIO, self.popen.stdin), cast(BinaryIO, self.popen.stdout)
        try:
            if self._tokenizer is not None:
                send(asked, self._tokenizer.to_json().encode())
                self._tokenizer = None
            send(asked, question(texts))
            message = receive(answers)
        except (OSError, EOFError):
            code = self.popen.wait()
            raise LuthierError(
                f"a process that encodes text has ended (exit code {code}): is there enough memory? Try again"
            ) from None
        kind, rest = message[:1], message[1:]
        if kind != DONE:
            raise LuthierError(rest.decode())
        return [np.frombuffer(row, IDS) for row in parted(rest)]

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.popen.kill()


class Encoding:
    """`in_order` gives batches with their ids. processes: 0 encodes here, one batch after another."""

    def __init__(self, tokenizer: Encoder, processes: int) -> None:
        self._tokenizer, self._count = tokenizer, processes

    def __enter__(self) -> Encoding:
        self._all = [Process(self._tokenizer) for _ in range(self._count)]
        self._free: SimpleQueue[Process] = SimpleQueue()
        for process in self._all:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(max(1, self._count))  # each asks a process, and waits
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.end()  # and so whoever waits for it goes on
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            with contextlib.suppress(BrokenPipeError), process.popen:  # closes its pipes
                pass

    def in_order(
        self, batches: Iterable[Batch], texts: Callable[[Batch], Sequence[str]]
    ) -> Iterator[tuple[Batch, Rows]]:
        """Each batch with the ids of its texts. Two batches for each process are on their way at once, no more."""
        if not self._count:
            yield from ((batch, self._tokenizer.encode_arrays(texts(batch))) for batch in batches)
            return
        waiting: deque[tuple[Batch, Future[Rows]]] = deque()
        for batch in batches:
            waiting.append((batch, self._threads.submit(self._ask, texts(batch))))
            if len(waiting) >= 2 * self._count:
                first, rows = waiting.popleft()
                yield first, rows.result()
        for first, rows in waiting:
            yield first, rows.result()

    def _ask(self, texts: Sequence[str]) -> Rows:
        for text in texts:
            check(text)
        process = self._free.get()
        try:
            return process.ask(texts)
        finally:
            self._free.put(process)
