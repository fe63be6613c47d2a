"""Encode a conversation with the model's chat template.

    template = template_of(tokenizer)
    ids = template.encode([{"role": "user", "content": "Hello"}])

A template is untrusted Jinja source, so it runs in a separate process (template_sandbox.py). Message contents are
encoded as plain text: "<|im_end|>" in a message does not end the turn. For that, a conversation is rendered twice, with
the messages and with placeholders for their contents. Special tokens of the second rendering are the template's own; if
the first has others, the second is used.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from luthier.errors import LuthierError, setting
from luthier.files.reading import read_text
from luthier.tokenizers.core.tokenizer import Tokenizer, check

ROLES = ("system", "user", "assistant", "tool")
LONGEST = 2**20  # characters of a template: the longest published ones have some 20,000
SECONDS = 20.0  # wall-clock time; the sandbox ends itself after 2 s of CPU time
FOLDER = Path(__file__).parent / "templates"
SANDBOX = Path(__file__).with_name("template_sandbox.py")
# the templates that come with Luthier, and the special tokens by which matching vocabularies are detected
BUILT_IN = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama2": ("<s>", "</s>"),
}
MARK = re.compile(r"\S{3,}")  # what a turn token looks like; a vocabulary may have runs of spaces too
LLAMA2_VOCABULARY = 32_000  # tokens: many others have a <s>


class Part(NamedTuple):
    """A part of a rendered conversation: plain text, or one special token with its id."""

    text: str
    id: int | None


class ChatTemplate:
    """A chat template with its tokenizer. name: of the template in errors.

    special_tokens: ids by name, of the tokenizer's special tokens and the template's turn tokens.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, name: str = "the chat template") -> None:
        if len(source) > LONGEST:
            raise LuthierError(f"{name} has {len(source):,} characters: no chat template is longer than {LONGEST:,}")
        self.source, self.tokenizer, self.name = source, tokenizer, name
        # in some vocabularies the template's turn tokens are not marked as special
        added = tokenizer.backend.get_added_tokens_decoder().items()
        turns = {token.content: i for i, token in added if MARK.fullmatch(token.content) and token.content in source}
        self.special_tokens = {**turns, **tokenizer.special_tokens}
        longest_first = sorted(filter(None, self.special_tokens), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Render a conversation as text, like transformers' `apply_chat_template`.

        answer: end where the assistant's next turn begins (`add_generation_prompt`). Raises a LuthierError for a
        template that fails, or that takes too much time, memory or room.
        """
        check_messages(messages)
        return self._text(self._run([messages], answer)[0])

    def encode(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> list[int]:
        """Encode a conversation. Special tokens' names in messages are plain text. Raises as `render`."""
        check_messages(messages)
        mark = self._unused(messages)
        marked = [
            {**message, "content": placeholder(message["content"], f"{mark}{number}{mark}")}
            for number, message in enumerate(messages)
        ]
        answers = self._run([messages, marked], answer)
        text, frame = self._text(answers[0]), self._text(answers[1])
        contents = [message["content"].strip() for message in messages]
        parts: list[Part] = []
        for number, piece in enumerate(re.split(f"{mark}([0-9]+){mark}", frame)):
            if number % 2 == 0:
                parts += self._parts(piece)
            elif int(piece) < len(contents):
                parts.append(Part(contents[int(piece)], None))
        # a template that changes what messages say, or looks into it: its words count, unless its tokens are others
        if "".join(part.text for part in parts) != text:
            changed = self._parts(text)
            if specials(changed) == specials(parts):
                parts = changed
        return self._ids(joined(parts))

    @cached_property
    def end_of_turn(self) -> str | None:
        """The special token that this template puts after an assistant message."""
        said = "\ue000"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
        text = self._run([turns], answer=False)[0].get("text", "")
        after = self._special.match(text.rpartition(said)[2].lstrip()) if said in text else None
        return after[0] if after else None

    def _unused(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A character of no meaning (Unicode's private plane 15) that neither template nor messages have."""
        used = set(self.source).union(*(message["content"] for message in messages))
        free = next((chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used), None)
        if free is None:
            raise LuthierError("the messages have every character of Unicode's private plane 15: leave some out")
        return free

    def _parts(self, text: str) -> list[Part]:
        """Split a text at its special tokens."""
        pieces = enumerate(self._special.split(text))
        return [Part(piece, self.special_tokens[piece] if i % 2 else None) for i, piece in pieces if piece]

    def _ids(self, parts: Sequence[Part]) -> list[int]:
        """Encode the parts of a conversation: together, as transformers does, if that is safe."""
        known = set(self.special_tokens.values()) - {self.tokenizer.unk_id}
        own = [i for i in specials(parts) if i in known]
        text = "".join(part.text for part in parts)
        if self._parts(text) == parts:  # else plain text writes a special token
            ids = self.tokenizer.encode(text, special=True)
            if [i for i in ids if i in known] == own:
                return ids
        runs = [run for part in parts for run in self._plain(part)]
        rows = iter(self.tokenizer.encode_batch([run.text for run in runs if run.id is None]))
        ids = [i for run in runs for i in (next(rows) if run.id is None else [run.id])]
        if [i for i in ids if i in known] != own:
            raise LuthierError("a message writes a special token that this tokenizer cannot tell from plain text")
        return ids

    def _plain(self, part: Part) -> list[Part]:
        """The part in runs to encode: names that the tokenizer does not know as special are cut, to stay text."""
        if part.id is not None:
            return [part]
        runs: list[Part] = []
        for piece in self._parts(part.text):
            if piece.id is not None and piece.text not in self.tokenizer.special_tokens:
                runs += [Part(piece.text[:1], None), Part(piece.text[1:], None)]
            else:
                before = runs.pop().text if runs else ""
                runs.append(Part(before + piece.text, None))
        return runs

    def _text(self, answer: Mapping[str, str]) -> str:
        if "error" in answer:
            raise LuthierError(f"{self.name} refuses this conversation: {answer['error']}")
        return answer["text"]

    def _run(self, conversations: Sequence[Sequence[Mapping[str, str]]], answer: bool) -> list[dict[str, str]]:
        """Render in the sandbox: for each conversation {"text"} or {"error"}."""
        variables = {role: token for role, token in self.tokenizer.roles.items() if token is not None}
        request = {
            "template": self.source,
            "conversations": [[dict(message) for message in messages] for messages in conversations],
            "variables": {**variables, "add_generation_prompt": answer, "tools": None, "documents": None},
        }
        # -P: the names of the files beside the sandbox are not modules to import
        command = [sys.executable, "-P", str(SANDBOX)]
        try:
            done = subprocess.run(  # noqa: S603 (our own program)
                command,
                input=json.dumps(request).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=True,
            )
            answers: list[dict[str, str]] = json.loads(done.stdout)
        except OSError as error:
            raise LuthierError(f"{self.name} cannot be run in a process of its own: {error.strerror}") from None
        except (subprocess.SubprocessError, ValueError):
            raise LuthierError(
                f"{self.name} was stopped: it takes more time or memory than any conversation needs. "
                f"Choose another with {setting('template', 'FILE')}, or one of {', '.join(BUILT_IN)}"
            ) from None
        return answers


def template_of(tokenizer: Tokenizer, wanted: str | None = None) -> ChatTemplate:
    """The template of a model, or the one that is wanted: a file, or chatml, llama2, llama3 or llama4.

    A model without a template of its own gets the one whose special tokens its vocabulary has. Raises a LuthierError
    when there is none, and for a file that cannot be read.
    """
    if wanted is None and tokenizer.chat_template is not None:
        return ChatTemplate(tokenizer.chat_template, tokenizer, "the model's chat template")
    name = wanted or next((name for name in BUILT_IN if fits(tokenizer, name)), None)
    if name is None:
        raise LuthierError(
            "this model was not trained to chat: it has no chat template, nor special tokens for turns. "
            f"Choose one with {setting('template', 'FILE')}, or one of {', '.join(BUILT_IN)}, or let it go "
            "on with a text "
            "by luthier generate"
        )
    if name in BUILT_IN:
        return ChatTemplate(read_text(FOLDER / f"{name}.jinja"), tokenizer, f"the template {name}")
    path = Path(name)
    if not path.is_file():
        raise LuthierError(f"there is no template {name}: give a file, or one of {', '.join(BUILT_IN)}")
    if path.stat().st_size > LONGEST:
        raise LuthierError(f"{path} has {path.stat().st_size:,} bytes: no chat template is longer than {LONGEST:,}")
    return ChatTemplate(read_text(path), tokenizer, str(path))


def fits(tokenizer: Tokenizer, name: str) -> bool:
    """Whether a vocabulary matches one of Luthier's templates."""
    if name == "llama2" and tokenizer.vocab_size != LLAMA2_VOCABULARY:
        return False
    return all(token in tokenizer.special_tokens for token in BUILT_IN[name])


def check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    """Raise a LuthierError for an invalid conversation.

    Templates write roles between special tokens, so only known roles are allowed.
    """
    if not messages:
        raise LuthierError("the conversation is empty: give at least one message")
    for message in messages:
        if message.keys() != {"role", "content"} or not isinstance(message["content"], str):
            raise LuthierError("a message must have a role and a content, both text, and nothing else")
        if message["role"] not in ROLES:
            raise LuthierError(f"a message has the role {message['role']!r}: it must be one of {', '.join(ROLES)}")
        check(message["content"])


def placeholder(content: str, mark: str) -> str:
    """The mark in place of what is said. Spaces around it stay: many templates take them off."""
    core = content.strip()
    return content.replace(core, mark) if core else content


def specials(parts: Sequence[Part]) -> list[int]:
    """The ids of the special tokens."""
    return [part.id for part in parts if part.id is not None]


def joined(parts: Sequence[Part]) -> list[Part]:
    """The same, with neighboring runs of plain text in one."""
    merged: list[Part] = []
    for part in parts:
        if part.id is None and merged and merged[-1].id is None:
            part = Part(merged.pop().text + part.text, None)
        merged.append(part)
    return merged
