"""Check a pickle without executing it: its globals and its nesting depth.

A pickle is a program for a stack machine. The machine is simulated with a stack of nesting depths. Objects nested a
million levels deep would crash the interpreter.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from pathlib import Path

from luthier.errors import LuthierError

MAX_DEPTH = 10_000  # levels; a list counts one per thousand items, as it is pickled in batches
UNKNOWN = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")  # other imports; torch.save writes none


def check_pickle(path: Path, content: bytes, known: Collection[str]) -> None:
    """Raise a LuthierError for a pickle that imports globals other than `known` ("module name")."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[object, int | None] = {}
    try:
        for operation, argument, _ in pickletools.genops(content):
            name = operation.name
            if name in UNKNOWN or (name == "PROTO" and argument != 2):
                raise LuthierError(
                    f"{path}: its pickle was not written by torch.save ({name} {argument or ''}); it was rejected "
                    "and nothing was executed"
                )
            if name == "GLOBAL" and argument not in known:
                raise LuthierError(
                    f"{path} asks for {str(argument).replace(' ', '.')!r:.80}, which plain tensors do not need: it "
                    "was rejected and nothing was executed. If you trust the file, open it in PyTorch and save only "
                    "its state dict"
                )
            if name.endswith("PUT"):
                memo[argument] = stack[-1]
            elif name.endswith("GET"):
                stack.append(memo[argument])
            elif name == "MARK":
                stack.append(None)
            else:
                apply_opcode(operation, stack)
    except LuthierError:
        raise
    except Exception as error:  # mostly ValueError, and errors from decoding strings or an empty stack
        raise LuthierError(f"{path} is damaged: its pickle cannot be read ({error})") from None


def apply_opcode(operation: pickletools.OpcodeInfo, stack: list[int | None]) -> None:
    """Apply an opcode to the stack of depths."""
    takes, used = operation.stack_before, [0]
    if pickletools.markobject in takes:
        while (top := stack.pop()) is not None:
            used.append(top)
        takes = takes[: takes.index(pickletools.markobject)]
    used += [stack.pop() or 0 for _ in takes]
    depth = max(used) + 1
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deep")
    stack += [depth] * len(operation.stack_after)
