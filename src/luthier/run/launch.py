"""The launch that a run's folder belongs to: a launch may remove what it made, and nothing else.

A launch is one command of a person. torchrun starts its processes anew when one fails (--max-restarts): that is the
same launch, known by torchrun's run id and by the processes of torchrun itself, which outlive a restart. A launch marks
its folder with LAUNCH before it writes anything else there.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from luthier.errors import LuthierError, setting
from luthier.files.atomic_file import write_file
from luthier.files.json_files import json_text, read_json
from luthier.files.unfinished import is_unfinished, remove
from luthier.run.folder import LOCK, RunFolder
from luthier.run.json_lines import read_lines
from luthier.terminal.printing import say
from luthier.training.distributed import World, restarted

LAUNCH = ".launch.json"
MADE = (  # patterns of all that a run writes into its folder
    LAUNCH, "run.toml", "run.edited.toml", "tokens", "tokens-????????", "metrics*.jsonl", "samples*.jsonl",
    ".metrics.jsonl.part", ".samples.jsonl.part", "losses.png", "report.html", "checkpoints", "tensorboard", ".saving",
    "config.json", "generation_config.json", "model.safetensors", "model-?????-of-?????.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One command, however often torchrun starts its processes. starters: who can start them again, one a machine."""

    run_id: str
    starters: tuple[str, ...]

    def is_same(self, other: Launch) -> bool:
        """Whether both are one launch; machines may have joined or left."""
        return self.run_id == other.run_id and bool(set(self.starters) & set(other.starters))


def this_launch(world: World) -> Launch:
    """The launch that this process belongs to (collective: every process must call it)."""
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    starter = process_name(os.getppid() if under_torchrun else os.getpid())
    return Launch(os.environ.get("TORCHELASTIC_RUN_ID", ""), tuple(sorted(set(world.gather(starter)))))


def process_name(number: int) -> str:
    """Identifies a process among all machines, also when its number is reused."""
    machine, began = platform.node(), ""
    with suppress(OSError, IndexError):  # only Linux has these
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{machine} {number} {began}"


def may_go_on(folder: RunFolder, launch: Launch) -> bool:
    """Whether torchrun has restarted this launch after it had saved a checkpoint."""
    marked = marker(folder.path)
    return restarted() and marked is not None and marked[0].is_same(launch) and bool(folder.whole_checkpoints())


def check_free(folder: RunFolder, launch: Launch) -> None:
    """Raise a LuthierError if the folder holds anything but a run without checkpoints. Changes nothing.

    Such a run was killed before its first checkpoint: its launch marked the folder, and no weights in it were trained.
    """
    path = folder.path
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise LuthierError(f"{path} exists: name another folder ({setting('out')})")
    marked, found = marker(path), contents(path)
    if marked is None and found:
        hint = f"go on with {setting('resume')}, or " if folder.whole_checkpoints() else ""
        raise LuthierError(f"{path} exists: {hint}name another folder ({setting('out')})")
    if strange := [item.name for item in found if not any(item.match(pattern) for pattern in MADE)]:
        raise LuthierError(
            f"{path} holds a file that no run wrote ({strange[0]:.60}): name another folder ({setting('out')})"
        )
    if list(folder.checkpoints.glob("step-*")):
        raise LuthierError(f"{path} exists: go on with {setting('resume')}, or name another folder ({setting('out')})")
    if marked is not None and marked[0].is_same(launch) and restarted():
        return
    if list(folder.checkpoints.glob("[!.]*")) or any(each.get("step") for each in read_lines(folder.metrics)):
        raise LuthierError(
            f"{path} holds weights of a run that stopped before its first checkpoint: "
            f"move it elsewhere, or name another folder ({setting('out')})"
        )


@contextmanager
def taken(folder: RunFolder, launch: Launch) -> Iterator[None]:
    """Make, lock and mark the folder for this launch. The checks of `check_free` are repeated under the lock."""
    check_free(folder, launch)  # before a lock is left in a folder of somebody else
    created = not folder.path.exists()
    folder.make()
    with folder.locked():
        check_free(folder, launch)
        before = marker(folder.path)
        if before is not None:
            created = before[1]
            say(f"{folder.path}: a run was stopped there before its first checkpoint; it is started again")
        clear(folder)
        mark(folder.path, launch, created)
        yield


@contextmanager
def discarded_on_error(folder: RunFolder) -> Iterator[None]:
    """Remove the folder on an error or Ctrl-C before the run has begun, so that the command can be repeated."""
    try:
        yield
    except BaseException:
        discard(folder)
        raise


def discard(folder: RunFolder) -> None:
    """Remove what the launch that marked the folder wrote there, and the folder itself if that launch made it."""
    marked = marker(folder.path)
    if marked is None:
        return
    clear(folder)
    remove(folder.path / LAUNCH)
    remove(folder.path / LOCK)
    if marked[1]:
        with suppress(OSError):  # a person may have put something into it
            folder.path.rmdir()


def clear(folder: RunFolder) -> None:
    """Remove what a run wrote into its folder, except the mark of its launch."""
    for path in folder.path.iterdir():
        ours = is_unfinished(path) or any(path.match(pattern) for pattern in MADE)
        if ours and path.name != LAUNCH:
            remove(path)


def contents(path: Path) -> list[Path]:
    """Contents of a run's folder, without its lock and unfinished files of dead processes."""
    return sorted(item for item in path.iterdir() if item.name != LOCK and not is_unfinished(item))


def mark(path: Path, launch: Launch, created: bool) -> None:
    """Mark the folder as that of a launch. created: whether the launch made the folder."""
    write_file(path / LAUNCH, json_text({**asdict(launch), "created": created}))


def marker(path: Path) -> tuple[Launch, bool] | None:
    """The launch that a folder belongs to, and whether it made the folder; None where there is no mark."""
    try:
        content = read_json(path / LAUNCH)
        return Launch(str(content["run_id"]), tuple(map(str, content["starters"]))), bool(content["created"])
    except (LuthierError, KeyError, TypeError):
        return None
