"""stdout, as the verbs that let a model speak write to it."""

from __future__ import annotations

import sys

# control characters that a model writes could steer a terminal: there they are shown as pictures
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
BOLD, PLAIN = "\033[1m", "\033[0m"


class Screen:
    """stdout: plain text, or a terminal, where the prompt is bold and control characters are harmless."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()

    def prompt(self, text: str) -> None:
        """The prompt, which stands before its text."""
        self.text(text, BOLD)

    def text(self, text: str, style: str = "") -> None:
        """Show text at once."""
        if self.terminal:
            text = text.translate(PICTURES)
            text = f"{style}{text}{PLAIN}" if style else text
        sys.stdout.write(text)
        sys.stdout.flush()
