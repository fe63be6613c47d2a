"""A process that encodes texts for another: `python -m luthier.data.encoding_process`, asked and answering by pipes.

It is told its tokenizer first (what tokenizer.json says), then texts, again and again, until its input ends: so it does
not outlive who started it. A message is its length in 8 bytes and itself; a list of strings or of ids is their count,
their lengths, all in 8 bytes, and all of them joined.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

COUNT = np.dtype("<u8")
IDS = np.dtype("<u4")
DONE, FAILED = b"+", b"-"  # how an answer begins: ids, or why there are none


def send(pipe: BinaryIO, message: bytes) -> None:
    """Write a message."""
    pipe.write(len(message).to_bytes(8, "little") + message)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes:
    """Read a message. Raises EOFError where none comes any more."""
    size = int.from_bytes(pipe.read(8), "little")
    message = pipe.read(size)
    if not size or len(message) < size:
        raise EOFError
    return message


def joined(parts: Sequence[bytes]) -> bytes:
    """Several strings of bytes as one."""
    return np.array([len(parts), *map(len, parts)], COUNT).tobytes() + b"".join(parts)


def parted(data: bytes) -> list[bytes]:
    """What `joined` joined."""
    count = int(np.frombuffer(data, COUNT, 1)[0])
    lengths = np.frombuffer(data, COUNT, count, COUNT.itemsize)
    ends = np.cumsum(lengths, dtype=np.int64) + COUNT.itemsize * (1 + count)
    return [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def question(texts: Sequence[str]) -> bytes:
    """Texts to encode. Raises UnicodeEncodeError."""
    return joined([text.encode() for text in texts])


def answer(rows: Sequence[NDArray[np.uint32]]) -> bytes:
    """Ids."""
    return DONE + joined([row.astype(IDS).tobytes() for row in rows])


def main() -> None:
    """Answer until nobody asks."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each core has a process
    from tokenizers import Tokenizer as Backend

    from luthier.errors import LuthierError
    from luthier.tokenizers.core.tokenizer import Tokenizer

    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    tokenizer = Tokenizer(Backend.from_str(receive(asked).decode()))
    while True:
        texts = [text.decode() for text in parted(receive(asked))]
        try:
            message = answer(tokenizer.encode_arrays(texts))
        except LuthierError as error:
            message = FAILED + str(error).encode()
        send(answers, message)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # a flush of what nobody reads would fail once more
