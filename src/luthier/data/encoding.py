"""Encode a corpus on all cores: batches of texts go to worker processes, and their ids are returned in order.

Splitting into words is Python code that holds the GIL: hence processes, not threads. They are started only for texts
long enough to amortize the start, and only for tokenizers that encode by word lookup; the backends of others use all
cores by themselves.
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
SHARE = 1 << 23  # characters per process: half a second of work, as long as starting takes
COMMAND = (sys.executable, "-P", "-m", "luthier.data.encoding_process")


class Encoder(Protocol):
    """The tokenizer interface used here."""

    @property
    def encodes_words(self) -> bool:
        """Whether encoding is Python code, which uses one core."""
        ...

    def encode_arrays(self, texts: Sequence[str]) -> Rows:
        """Token ids of each text."""
        ...

    def to_json(self) -> str:
        """Content of tokenizer.json."""
        ...


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(tokenizer: Encoder, characters: int) -> int:
    """Number of worker processes for a text of this length; 0 to encode in this process."""
    many = min(cores(), characters // SHARE)
    return many if many > 1 and sys.executable and tokenizer.encodes_words else 0


class Process:
    """A worker process that encodes texts."""

    def __init__(self, tokenizer: Encoder) -> None:
        self._tokenizer: Encoder | None = tokenizer
        path = os.pathsep.join(filter(None, sys.path))
        self.popen = subprocess.Popen(  # noqa: S603 (our own module)
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches only the parent, which then ends the worker
        )

    def ask(self, texts: Sequence[str]) -> Rows:
        """Encode texts in the worker. Raises LuthierError."""
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
        """Kill the worker."""
        self.popen.kill()


class Encoding:
    """Context manager whose `in_order` encodes batches. processes: 0 encodes in this process, sequentially."""

    def __init__(self, tokenizer: Encoder, processes: int) -> None:
        self._tokenizer, self._count = tokenizer, processes

    def __enter__(self) -> Encoding:
        self._all = [Process(self._tokenizer) for _ in range(self._count)]
        self._free: SimpleQueue[Process] = SimpleQueue()
        for process in self._all:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(max(1, self._count))  # each waits for one worker
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.end()  # unblocks the thread that waits for it
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            with contextlib.suppress(BrokenPipeError), process.popen:  # closes its pipes
                pass

    def in_order(
        self, batches: Iterable[Batch], texts: Callable[[Batch], Sequence[str]]
    ) -> Iterator[tuple[Batch, Rows]]:
        """Yield each batch with the ids of its texts, in order. At most two batches per process are in flight."""
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
