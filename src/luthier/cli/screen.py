"""stdout, as the verbs that generate text write to it."""

from __future__ import annotations

from luthier.terminal.characters import printable
from luthier.terminal.printing import output_text
from luthier.terminal.streams import is_terminal

BOLD, PLAIN = "\033[1m", "\033[0m"


class Screen:
    """stdout: the text as it is, or a terminal, where the prompt is bold and control characters are shown as signs."""

    def __init__(self) -> None:
        self.terminal = is_terminal("stdout")

    def prompt(self, text: str) -> None:
        """The prompt, which stands before its text."""
        self.text(text, BOLD)

    def text(self, text: str, style: str = "") -> None:
        """Show text at once."""
        if self.terminal:
            text = printable(text)
            text = f"{style}{text}{PLAIN}" if style else text
        output_text(text)
