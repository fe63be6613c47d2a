"""Worker process that encodes texts: `python -m luthier.data.encoding_process`, with requests and replies over pipes.

The first message is the tokenizer (content of tokenizer.json), the following ones are texts, until stdin closes: thus
the worker does not outlive its parent. A message is preceded by its length in 8 bytes; a list of strings or ids is
their count, their lengths, all in 8 bytes, and their concatenation.
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
DONE, FAILED = b"+", b"-"  # first byte of a reply: ids, or an error message


def send(pipe: BinaryIO, message: bytes) -> None:
    """Write a message."""
    pipe.write(len(message).to_bytes(8, "little") + message)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes:
    """Read a message. Raises EOFError at the end of the stream."""
    size = int.from_bytes(pipe.read(8), "little")
    message = pipe.read(size)
    if not size or len(message) < size:
        raise EOFError
    return message


def joined(parts: Sequence[bytes]) -> bytes:
    """Serialize a list of byte strings."""
    return np.array([len(parts), *map(len, parts)], COUNT).tobytes() + b"".join(parts)


def parted(data: bytes) -> list[bytes]:
    """Inverse of `joined`."""
    count = int(np.frombuffer(data, COUNT, 1)[0])
    lengths = np.frombuffer(data, COUNT, count, COUNT.itemsize)
    ends = np.cumsum(lengths, dtype=np.int64) + COUNT.itemsize * (1 + count)
    return [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def question(texts: Sequence[str]) -> bytes:
    """Serialize texts to encode. Raises UnicodeEncodeError."""
    return joined([text.encode() for text in texts])


def answer(rows: Sequence[NDArray[np.uint32]]) -> bytes:
    """Serialize token ids as a reply."""
    return DONE + joined([row.astype(IDS).tobytes() for row in rows])


def main() -> None:
    """Answer requests until stdin closes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core
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
        os._exit(0)  # flushing to a closed pipe would fail again
