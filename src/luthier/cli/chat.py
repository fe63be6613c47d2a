"""`luthier chat`: a conversation with a model in the terminal.

The replies go to stdout and nothing else does; remarks go to stderr. At a terminal the lines typed can be edited, and
earlier ones called back; from a pipe, each line is one message, and an error ends the conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from luthier.cli.opening import open_draft, open_model
from luthier.cli.screen import Screen
from luthier.cli.texts import given_text
from luthier.errors import LuthierError, UsageError, remark
from luthier.generation.settings import GenerationSettings
from luthier.opening import Device, NumberType, Quantize
from luthier.terminal.printing import note
from luthier.terminal.streams import is_terminal

if TYPE_CHECKING:
    from luthier.generation.conversation import Conversation

ABOUT = """Talk with a model, in the words of its own chat template. Lines that begin with / are commands: /help.

    luthier chat SmolLM2-135M-Instruct.gguf
    luthier chat Llama-3.2-1B-Instruct --system "You are a poet." --temperature 1
    luthier chat runs/book --template chatml
    echo "What is the capital of France?" | luthier chat SmolLM2-135M-Instruct.gguf --temperature 0
"""
HELP = """/help          this list
/reset         forget the conversation; the system prompt stays
/undo          take the last message and its reply back
/system TEXT   set the system prompt; without a text, take it away
/save FILE     write the conversation into a JSON file
/load FILE     go on with one that was saved
/quit          leave, as Ctrl-D does; Ctrl-C stops a reply, and what was said is kept
Any other line is said to the model; one that must begin with / may begin with a space."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Anything that opens: a .gguf file, a Hugging Face or Meta folder, hf:ORG/NAME, a training run."""
    system: str | None = None
    """The system prompt: what the model is told before the conversation."""
    template: Annotated[str | None, tyro.conf.arg(metavar="{FILE,chatml,llama2,llama3,llama4}")] = None
    """How turns are written for the model: a Jinja template by file or by name; the model's own if not given."""
    settings: tyro.conf.OmitArgPrefixes[GenerationSettings] = field(
        default_factory=lambda: GenerationSettings(max_new_tokens=1000)
    )
    device: Device = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    dtype: NumberType = "auto"
    """Number type to compute in; auto takes that of the model's file."""
    quantize: Quantize = "no"
    """The matrices in 8 or 4 bits, on the CPU: faster, smaller, less exact. A GGUF file's blocks stay as they are."""
    draft: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A small model of the same tokenizer, or the same model: its guesses, in 4 bits on the CPU, can save time. The
    replies stay the same."""


def main(arguments: list[str]) -> int:
    """Talk until the person leaves."""
    given = tyro.cli(
        Arguments, prog="luthier chat", description=ABOUT, args=arguments, config=(tyro.conf.UseAppendAction,)
    )
    if given.settings.samples > 1:
        raise UsageError(f"--samples is {given.settings.samples}: a conversation goes on with one reply")
    for line in given.settings.idle():
        remark(line)
    settings = replace(given.settings, stop=tuple(given_text(each, "--stop") for each in given.settings.stop))
    system = None if given.system is None else given_text(given.system, "--system")
    lm = open_model(given.model, given.device, given.dtype, given.quantize)

    draft = open_draft(given.draft, lm)
    conversation = lm.chat(system=system, template=given.template, settings=settings, draft=draft)
    if sys.stdin is not None and sys.stdin.isatty() and is_terminal("stdout"):
        note(f"{conversation.template.name}, {lm.config.context_length:,} tokens of context; /help lists the commands")
        Talk(conversation, interactive=True).run(typed_lines())
    else:
        Talk(conversation, interactive=False).run(piped_lines())
    return 0


def piped_lines() -> Iterator[str]:
    """The lines of stdin."""
    if sys.stdin is None:
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise LuthierError(f"line {number} on stdin is not UTF-8: byte {error.start} is wrong") from None


def typed_lines() -> Iterator[str]:
    """The lines that a person types and edits, until Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.shortcuts import CompleteStyle

    commands = WordCompleter([line.split()[0] for line in HELP.splitlines() if line.startswith("/")], sentence=True)
    # as in a shell, Tab completes a command: a menu would take eight lines of the screen
    session: PromptSession[str] = PromptSession(completer=commands, complete_style=CompleteStyle.READLINE_LIKE)
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            note("Ctrl-D or /quit leaves")
        except EOFError:
            return


class Talk:
    """A conversation on the screen. interactive: a person is there, to whom errors are said and who then goes on."""

    def __init__(self, conversation: Conversation, *, interactive: bool) -> None:
        self.conversation, self.interactive = conversation, interactive
        self.screen = Screen()
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self.help,
            "/reset": self.reset,
            "/undo": self.undo,
            "/system": self.system,
            "/save": self.save,
            "/load": self.load,
        }

    def run(self, lines: Iterable[str]) -> None:
        """Take each line as a command or as a message."""
        for line in lines:
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line.strip():
                    self.say(line)
            except LuthierError as error:
                if not self.interactive:
                    raise
                note(f"luthier: {error}")

    def command(self, line: str) -> None:
        """Do what a line that begins with / says."""
        name, _, rest = line.partition(" ")
        if name not in self.commands:
            raise UsageError(f"no command {name}: there are {', '.join(self.commands)}, /quit")
        self.commands[name](rest.strip())

    def say(self, text: str) -> None:
        """Say something to the model, and show the reply as it comes."""
        conversation = self.conversation
        n_truncated, before = conversation.n_truncated, len(conversation.messages)
        try:
            with closing(conversation.reply(text)) as pieces:
                if conversation.n_truncated > n_truncated:
                    note(f"the context is full: the first turns are left out, {conversation.n_truncated} by now")
                for piece in pieces:
                    self.screen.text(piece)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            if len(conversation.messages) == before:
                note("")  # ends the line of the terminal's ^C
                note("stopped before a word was said: your message is not kept")
                return
        self.screen.text("\n")
        reason = conversation.last.finish_reason if conversation.last else None
        if reason is None:
            note("stopped")
        elif reason == "length":
            note(f"cut after {conversation.settings.max_new_tokens} tokens (--max-new-tokens)")
        elif reason == "context":
            note(f"cut where the context of {conversation.context_length} tokens is full (/reset begins anew)")

    def help(self, _: str) -> None:
        """List the commands."""
        for line in HELP.splitlines():
            note(line)

    def reset(self, _: str) -> None:
        """Begin anew."""
        self.conversation.reset()
        note("the conversation is forgotten")

    def undo(self, _: str) -> None:
        """Take the last turn back."""
        asked = self.conversation.undo()
        note("there is nothing to take back" if asked is None else "the last message and its reply are taken back")

    def system(self, text: str) -> None:
        """Change the system prompt."""
        self.conversation.system = text or None
        note("the system prompt is set" if text else "there is no system prompt now")

    def save(self, path: str) -> None:
        """Write the conversation into a file."""
        self.conversation.save(named(path, "/save"))
        note(f"{turns(self.conversation)} saved in {path}")

    def load(self, path: str) -> None:
        """Go on with a saved conversation, and show how it ended."""
        self.conversation.load(named(path, "/load"))
        messages = self.conversation.messages
        note(f"{turns(self.conversation)} from {path}")
        if self.interactive and messages:
            self.screen.prompt(messages[-2]["content"] + "\n")
            self.screen.text(messages[-1]["content"] + "\n")


def turns(conversation: Conversation) -> str:
    """How many turns there are, in words."""
    count = len(conversation.messages) // 2
    return "1 turn" if count == 1 else f"{count} turns"


def named(path: str, command: str) -> str:
    """The path, which must be given."""
    if not path:
        raise UsageError(f"{command} needs the name of a file: {command} conversation.json")
    return str(Path(path).expanduser())
