"""Byte-level BPE training in a separate process, so that signals can end it.

The backend's training cannot be interrupted by signals, and may take minutes. So long texts are sent to another
process, which ends with its parent. This module, run as a program, is that process: it reads settings and texts from
stdin, each preceded by its length, and writes the answer to stdout.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import BinaryIO, NamedTuple, cast

from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from luthier.errors import LuthierError
from luthier.tokenizers.core.pieces import BYTE_ALPHABET

LONGEST_WORD = 256  # bytes: training takes time with the square of a word's length, and no merge needs more
SHORT = 2**18  # characters that are trained on at once, here: a process would take as long to start
LENGTH = struct.Struct("<q")  # of the message that follows; END ends the texts
END = -1
DONE, FAILED = b"d", b"f"
COMMAND = (sys.executable, "-P", "-m", "luthier.tokenizers.core.bpe_training")


class Settings(NamedTuple):
    """Settings of BPE training."""

    vocab_size: int
    special_tokens: list[str]
    progress: bool


def trained(texts: Iterable[str], settings: Settings) -> Backend:
    """Train a BPE on the texts. Raises LuthierError if the training process ends early."""
    texts = iter(texts)
    first, size = [], 0
    for text in texts:
        first.append(text)
        size += len(text)
        if size > SHORT:
            break
    else:
        return train(first, settings._replace(progress=False))
    return Backend.from_str(_asked(chain(first, texts), settings).decode())


def train(texts: Iterable[str], settings: Settings) -> Backend:
    """Train in this process, which signals cannot end. Words over LONGEST_WORD bytes are split; others are
    unaffected.
    """
    trainer = BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in settings.special_tokens],
        initial_alphabet=BYTE_ALPHABET,
        show_progress=settings.progress,
    )
    backend = Backend(BPE())
    pieces = Split(Regex(rf"[\s\S]{{1,{LONGEST_WORD}}}"), "isolated")  # each byte is one character after ByteLevel
    backend.pre_tokenizer = Sequence([ByteLevel(add_prefix_space=False), pieces])
    backend.train_from_iterator(texts, trainer)
    return backend


def _asked(texts: Iterator[str], settings: Settings) -> bytes:
    """Train in another process. Returns its answer: a tokenizer.json."""
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(  # noqa: S603 (our own module)
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process, which then ends the other
    )
    asks, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
    try:
        with suppress(BrokenPipeError):  # it has ended, and says why below
            _send(asks, json.dumps(settings).encode())
            for text in texts:
                _send(asks, text.encode())
            asks.write(LENGTH.pack(END))
            asks.flush()
        answer = answers.read()
    finally:
        process.kill()
        process.wait()
        answers.close()
        with suppress(BrokenPipeError):
            asks.close()
    if answer[:1] == FAILED:
        raise LuthierError(f"the tokenizer cannot be trained: {answer[1:].decode()}")
    if answer[:1] != DONE:
        raise LuthierError(
            f"the process that trains the tokenizer has ended (exit code {process.returncode}): is there enough memory?"
        )
    return answer[1:]


def _send(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(LENGTH.pack(len(message)))
    pipe.write(message)


def _receive(pipe: BinaryIO) -> bytes | None:
    """The next message; None at the end of the texts. Raises EOFError if the parent process has ended."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (size,) = LENGTH.unpack(head)
    if size == END:
        return None
    message = pipe.read(size)
    if len(message) < size:
        raise EOFError
    return message


def _texts(pipe: BinaryIO) -> Iterator[str]:
    while (message := _receive(pipe)) is not None:
        yield message.decode()

    def end_with_who_asks() -> None:
        pipe.read()
        os._exit(1)

    threading.Thread(target=end_with_who_asks, daemon=True).start()


def main() -> None:
    """Train on the received texts, and send the answer."""
    asks, answers = sys.stdin.buffer, sys.stdout.buffer
    message = _receive(asks)
    if message is None:
        return
    try:
        answer = DONE + train(_texts(asks), Settings(*json.loads(message))).to_str().encode()
    except EOFError:
        return
    except Exception as error:  # whatever the backend raises is said where a person sees it
        answer = FAILED + str(error).encode()
    answers.write(answer)
    answers.flush()
    os._exit(0)  # the thread still reads


if __name__ == "__main__":
    main()
