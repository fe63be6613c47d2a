"""`luthier torchrun`: torchrun, with a stop by signal that saves, says one line and exits with 130."""

from __future__ import annotations

import logging

from luthier.errors import LuthierError, UsageError
from luthier.run.interrupt import InterruptedRunError
from luthier.terminal.printing import output

ABOUT = """Start several processes, as torchrun does and with its options, and end as one process would.

    luthier torchrun --nproc-per-node 2 train book.txt --out runs/book

torchrun by itself ends with a traceback and exit code 1 when it is stopped by a signal. Here the processes finish their
step and save, one line is said, and the exit code is 130; when a process fails, its exit code is taken. The
options of torchrun come before the verb: torchrun --help lists them."""
SECONDS_TO_SAVE = 3600  # torchrun's own 30 are too few for a long step and a large model


def main(arguments: list[str]) -> int:
    """Run torchrun's agent in this process."""
    if not arguments or arguments[0] in ("-h", "--help"):
        output(ABOUT)
        return 0
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    given = torchrun.parse_args(arguments)  # type: ignore[no-untyped-call]
    if given.module or given.training_script.endswith(".py") or given.no_python:
        if (given.training_script, given.module) != ("luthier", True):
            raise UsageError(
                "luthier torchrun starts luthier: name a verb after torchrun's options, as in train book.txt"
            )
    else:  # luthier torchrun OPTIONS train book.txt
        given.training_script_args = [given.training_script, *given.training_script_args]
        given.training_script, given.module = "luthier", True
    if given.shutdown_timeout is None:
        given.shutdown_timeout = SECONDS_TO_SAVE
    logging.disable(logging.CRITICAL)  # torchrun's own words, around each process's line
    try:
        torchrun.run(given)  # type: ignore[no-untyped-call]
    except SignalException as stop:
        raise InterruptedRunError(f"stopped by {stop.sigval.name}: all processes have ended") from None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if codes == {InterruptedRunError.exit_code}:
            raise InterruptedRunError("stopped: the processes were interrupted") from None
        rank, first = error.get_first_failure()
        how = (
            f"was killed by signal {-first.exitcode}"
            if first.exitcode < 0
            else f"ended with exit code {first.exitcode}"
        )
        failed = LuthierError(f"process {rank} {how}; its own message is above")
        failed.exit_code = max(1, first.exitcode)
        raise failed from None
    return 0
