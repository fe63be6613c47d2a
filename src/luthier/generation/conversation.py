"""Multi-turn chat with a model, within its context length."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.files.atomic_file import write_file
from luthier.files.json_files import read_json
from luthier.generation.draft import Draft
from luthier.generation.generate import generate_stream, warn_special_names
from luthier.generation.sequence import GeneratedSequence, Result
from luthier.generation.settings import GenerationSettings
from luthier.model.transformer import Transformer
from luthier.tokenizers.chat.chat_template import ChatTemplate, check_messages

Message = dict[str, str]  # {"role", "content"}
REPLY_SHARE = 4  # at least a quarter of the context is reserved for the reply, unless max_new_tokens is less


class Conversation:
    """Alternating user and assistant messages after a system prompt (None: the template's default).

    messages: the turns, in pairs of "user" and "assistant". n_truncated: how many of the oldest pairs are truncated
    because the context is full. last: result of the last reply. draft: draft model for speculative decoding.

        conversation = Conversation(lm.model, template_of(lm.tokenizer), GenerationSettings(), lm.config.context_length)
        for piece in conversation.reply("Hello"):
            print(piece, end="", flush=True)
    """

    def __init__(
        self,
        model: Transformer,
        template: ChatTemplate,
        settings: GenerationSettings,
        context_length: int,
        system: str | None = None,
        draft: Draft | None = None,
    ) -> None:
        end = template.end_of_turn
        stop = settings.stop if end is None or end in settings.stop else (*settings.stop, end)
        self.model, self.template, self.context_length = model, template, context_length
        self.settings = replace(settings, stop=stop)
        self.system, self.draft = system, draft
        self.messages: list[Message] = []
        self.n_truncated = 0
        self.last: Result | None = None

    def say(self, text: str) -> str:
        """Send a user message. Returns the model's reply. Errors are those of `reply`."""
        return "".join(self.reply(text))

    def reply(self, text: str) -> Generator[str]:
        """Send a user message. Yields the model's reply piece by piece.

        A special token's name in the message, or in the system prompt of the first turn, is plain text, with a remark.
        If the reply is interrupted, the text generated so far is kept; if there is none, the conversation is unchanged.
        Raises a LuthierError for a message that does not fit into the context, or that the template rejects.
        """
        asked = {"role": "user", "content": text}
        prompt = self.prompt(asked)
        warn_special_names(self.template.special_tokens, [text], what="the message")
        if not self.messages and self.system is not None:
            warn_special_names(self.template.special_tokens, [self.system], what="the system prompt")
        turn = len(self.messages) // 2  # each turn has its own seed; repeating the conversation repeats the samples
        settings = replace(self.settings, seed=(self.settings.seed + turn) % 2**62)
        return self.answer(asked, GeneratedSequence(self.template.tokenizer, prompt, settings, self.context_length))

    def answer(self, asked: Message, sequence: GeneratedSequence) -> Generator[str]:
        """Generate the reply into the sequence, and append the turn."""
        try:
            for _, piece in generate_stream(self.model, [sequence], sequence.settings, self.draft):
                yield piece
        finally:
            if sequence.ended or sequence.result.text:
                self.messages += [asked, {"role": "assistant", "content": sequence.result.text}]
                self.last = sequence.result

    def prompt(self, asked: Message) -> list[int]:
        """Token ids of the prompt. Where they do not fit, the oldest pairs are truncated, for good."""
        pairs = len(self.messages) // 2
        before = [] if self.system is None else [{"role": "system", "content": self.system}]

        def without(count: int) -> list[int]:
            return self.template.encode([*before, *self.messages[2 * count :], asked])

        room = self.context_length - min(self.settings.max_new_tokens, self.context_length // REPLY_SHARE)
        prompt = without(self.n_truncated)
        if len(prompt) <= room:
            return prompt
        rest = range(self.n_truncated + 1, pairs + 1)
        found = bisect_left(rest, True, key=lambda count: len(without(count)) <= room)
        if found == len(rest):
            alone = len(without(pairs))
            raise LuthierError(
                f"the message has {alone} tokens, with the template and the system prompt; in the model's context of "
                f"{self.context_length}, a message may have {room}: shorten it"
            )
        self.n_truncated = rest[found]
        return without(self.n_truncated)

    def reset(self) -> None:
        """Clear the messages; the system prompt stays."""
        self.messages, self.n_truncated, self.last = [], 0, None

    def undo(self) -> Message | None:
        """Remove the last turn. Returns its user message, None if there is no turn."""
        if not self.messages:
            return None
        asked = self.messages[-2]
        self.messages, self.n_truncated, self.last = self.messages[:-2], 0, None
        return asked

    def save(self, path: str | Path) -> None:
        """Write the conversation into a JSON file: {"messages": [{"role", "content"}, ...]}, the system prompt first.

        An existing file is replaced only if it holds a conversation; otherwise raises a LuthierError.
        """
        path = Path(path)
        if path.exists():
            try:
                read_messages(path)
            except LuthierError:
                raise LuthierError(f"{path} already exists, and is not a conversation: choose another name") from None
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        write_file(path, json.dumps({"messages": [*before, *self.messages]}, indent=2, ensure_ascii=False) + "\n")

    def load(self, path: str | Path) -> None:
        """Load a saved conversation. Raises a LuthierError, and changes nothing, if the file is not one."""
        messages = read_messages(Path(path))
        self.reset()
        self.system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
        self.messages = messages


def read_messages(path: Path) -> list[Message]:
    """Messages of a saved conversation: alternating user and assistant, optionally after a system prompt."""
    messages: Any = read_json(path).get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise LuthierError(f'{path} is not a conversation: it has no list of "messages"')
    try:
        if messages:
            check_messages(messages)
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise LuthierError(f"{path}: after a system prompt, the roles must alternate between user and assistant")
    return messages
