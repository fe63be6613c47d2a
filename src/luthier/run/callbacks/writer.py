"""Writing of files while training goes on, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from luthier.training.callback import Callback
from luthier.training.loop import StepResult

Job = Callable[[], object]


class BackgroundWriter(Callback):
    """Writes what the callbacks before it have added, after each step, in the background.

    One write at a time: the next waits for the one before, so that memory stays bounded.
    """

    def __init__(self, *, active: bool = True) -> None:
        """active: whether this process writes; jobs added in others are dropped."""
        self.active = active
        self.jobs: list[Job] = []
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def add(self, job: Job) -> None:
        """Add a job for after this step."""
        if self.active:
            self.jobs.append(job)

    def begin(self) -> None:
        self.submit()

    def before_step(self) -> None:
        self.check()

    def after_step(self, result: StepResult) -> None:
        self.submit()

    def end(self) -> None:
        self.flush()

    def submit(self) -> None:
        """Do the jobs in their order while the caller goes on. Raises the error of an earlier job."""
        if not self.jobs:
            return
        self.wait()
        jobs, self.jobs = self.jobs, []
        # a daemon: whoever presses Ctrl-C twice does not want to wait for it, and half a save is never taken
        self.thread = threading.Thread(target=self._work, args=(jobs,), name="writer", daemon=True)
        self.thread.start()

    def flush(self) -> None:
        """Do all jobs and wait for them. Raises the error of a job."""
        self.submit()
        self.wait()

    def wait(self) -> None:
        """Wait for the running jobs. Raises the error of a job."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()

    def check(self) -> None:
        """Raise the error of a job, if one failed."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _work(self, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                job()
        except BaseException as error:  # handed to the thread that trains
            self.error = error
