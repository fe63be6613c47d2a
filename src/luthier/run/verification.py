"""`luthier.verify`: every check of a model or a run, as a table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from luthier.opening import Device, NumberType, open_model
from luthier.run.verify import Check, checks_of
from luthier.terminal.tables import html_table, text_table


@dataclass(frozen=True, repr=False)
class Verification:
    """The checks of a model, in order."""

    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """Those that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether all did."""
        return not self.failed

    @property
    def summary(self) -> str:
        """The result in a line."""
        return "all holds" if self.passed else f"{len(self.failed)} of {len(self.checks)} checks failed"

    def rows(self) -> list[tuple[str, str, str]]:
        """(pass or FAIL, name, figure) of each check."""
        return [("pass" if check.passed else "FAIL", check.name, check.figure) for check in self.checks]

    def __repr__(self) -> str:
        return f"{text_table(self.rows())}\n{self.summary}"

    def _repr_html_(self) -> str:
        return html_table([*self.rows(), ("", self.summary, "")])


def verify(model: str | os.PathLike[str], *, device: Device = "cpu", dtype: NumberType = "float32") -> Verification:
    """Test the properties of a language model on a model or a run, and compare the checksums of its files.

        >>> result = luthier.verify("runs/book")
        >>> result.passed, result.failed
        (True, [])

    model: a training run, or any model that opens. dtype: to compute in; float32 sees the smallest leaks. A check that
    fails is in the result; a LuthierError is raised only where nothing opens.
    """
    return Verification(list(checks_of(Path(model), open_model(model, device, dtype))))
