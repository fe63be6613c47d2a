"""A peer in a process of its own, which answers one line of JSON for each line that it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ANSWER = "answer:"  # how an answer begins: libraries print, too


class Child:
    """The process of `python SCRIPT NAME ARGUMENTS`, which answers once it is ready. silent: without its stderr."""

    def __init__(self, script: Path, name: str, *arguments: str, threads: int, silent: bool = False) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(script), name, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if silent else None, text=True,
            env=environment,
        )  # fmt: skip

    def ask(self, line: str) -> dict[str, Any]:
        """Tell it a line, and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.listen()

    def listen(self) -> dict[str, Any]:
        """The next answer; what libraries print is passed over. SystemExit where the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                record: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                return record
        raise SystemExit(f"{self.name} stopped with exit code {self.process.wait()}")

    def stop(self) -> None:
        """End it: llama.cpp's own end may hang."""
        self.process.kill()
        self.process.wait()


def answer(record: dict[str, Any]) -> None:
    """One line to whoever asked."""
    print(f"\n{ANSWER}{json.dumps(record)}", flush=True)
