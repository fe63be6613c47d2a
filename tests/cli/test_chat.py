"""`luthier chat` as a person uses it: piped and at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import fields

import pytest
from talking_models import byte_tokenizer, save_tiny

import luthier
from luthier.cli import chat
from luthier.cli.main import main
from luthier.generation.conversation import Conversation
from luthier.generation.settings import GenerationSettings
from luthier.tokenizers.chat.chat_template import template_of

PROMPT = "\x1b[?2004h"  # how prompt_toolkit begins to read a line
NO_PROMPT = "\x1b[?2004l"
FEW = ("--max-new-tokens", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "chatty", byte_tokenizer(eos="<|im_end|>"), 256)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "plain", byte_tokenizer(("<end>",), eos="<end>"))


@pytest.fixture
def run(capsys, monkeypatch):
    def typed(lines, *arguments):
        content = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = main(["chat", *arguments])
        return code, *capsys.readouterr()

    return typed


def replies(folder, *said, system=None, **settings):
    lm = luthier.load(folder)
    conversation = Conversation(
        lm.model, template_of(lm.tokenizer), GenerationSettings(**{"max_new_tokens": 6, **settings}), 256, system
    )
    return ["".join(conversation.reply(text)) for text in said]


def test_each_line_gets_a_reply_that_knows_those_before(folder, run):
    code, out, err = run("Hello\n\nAnd you?\r\n", folder, *FEW)
    assert code == 0
    assert out == "".join(text + "\n" for text in replies(folder, "Hello", "And you?"))
    assert err == "cut after 6 tokens (--max-new-tokens)\n" * 2


def test_a_system_prompt_and_the_ways_of_choosing_tokens_can_be_given(folder, run):
    [kind] = replies(folder, "Hello", system="Be kind", temperature=0)
    assert run("Hello", folder, *FEW, "--system", "Be kind", "--temperature", "0")[1] == kind + "\n"
    [drawn] = replies(folder, "Hello", temperature=2.0, top_p=1.0, seed=4)
    options = ("--temperature", "2", "--top-p", "1", "--seed", "4")
    assert run("Hello", folder, *FEW, *options, "--device", "cpu", "--dtype", "float32")[1] == drawn + "\n"


def test_commands_change_the_conversation(folder, run, tmp_path):
    path = tmp_path / "talk.json"
    first, second = replies(folder, "Hello", "More", system="Be kind")
    lines = f"/help\n/undo\n/system Be kind\nHello\nMore\n/undo\n/save {path}\n/reset\n/load {path}\nMore\n/quit\nnever"
    code, out, err = run(lines, folder, *FEW)
    assert code == 0
    assert out == f"{first}\n{second}\n{second}\n"
    assert [message["content"] for message in json.loads(path.read_text())["messages"]] == ["Be kind", "Hello", first]
    for remark in (
        chat.HELP,
        "nothing to take back",
        "system prompt is set",
        "taken back",
        "1 turn saved",
        "forgotten",
    ):
        assert remark in err
    [alone] = replies(folder, "Hello")
    assert run("/system Be kind\n/system\nHello", folder, *FEW)[1] == alone + "\n"


def test_a_line_that_begins_with_a_space_is_no_command(folder, run):
    [reply] = replies(folder, " /quit it")
    assert run(" /quit it\n", folder, *FEW)[1] == reply + "\n"


def test_a_full_context_is_said(folder, run):
    code, _, err = run("Hello, this is a long line of words to fill the room\n" * 6, folder, *FEW)
    assert code == 0
    assert "the context is full: the first turns are left out, 1 by now" in err


def test_the_template_can_be_chosen(plain, run, tmp_path):
    code, out, err = run("Hello\n", plain)
    assert (code, out) == (1, "")
    assert "not trained to chat" in err
    assert "--template FILE" in err
    (tmp_path / "mine.jinja").write_text("{{ messages[-1].content }}:")
    [expected] = luthier.load(plain).generate("Hello:", max_new_tokens=6)
    assert run("Hello\n", plain, *FEW, "--template", str(tmp_path / "mine.jinja"))[1] == expected + "\n"
    assert run("Hello\n", plain, *FEW, "--template", "llama2")[0] == 0


@pytest.mark.parametrize(
    ("lines", "arguments", "code", "message"),
    [
        ("/nothing\n", (), 2, "no command /nothing: there are /help, /reset"),
        ("/save\n", (), 2, "/save needs the name of a file"),
        ("/load missing.json\n", (), 1, "missing.json cannot be read"),
        ("x" * 300, (), 1, "shorten it"),
        (b"a\nb\xff\n", FEW, 1, "line 2 on stdin is not UTF-8: byte 1 is wrong"),
        ("Hello", ("--samples", "2"), 2, "samples is 2"),
        ("Hello", ("--temperature", "-1"), 2, "temperature is -1.0"),
        ("Hello", ("--template", "nothing"), 1, "there is no template nothing"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(folder, run, lines, arguments, code, message):
    got, _, err = run(lines, folder, *arguments)
    assert got == code
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("luthier: ")


def test_a_hostile_template_ends_the_command_with_one_line(folder, run, tmp_path):
    (tmp_path / "evil.jinja").write_text("{{ 'a' * 10**12 }}")
    code, out, err = run("Hello\n", folder, "--template", str(tmp_path / "evil.jinja"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "512 MB" in err


def test_help_names_every_setting(run):
    code, out, _ = run("", "--help")
    assert code == 0
    for item in fields(GenerationSettings):
        assert f"--{item.name.replace('_', '-')}" in out


class Interrupted(Conversation):
    """Ctrl-C comes after so many pieces of a reply."""

    after = 2

    def reply(self, text):
        pieces = super().reply(text)
        try:
            for _ in range(self.after):
                yield next(pieces)
            raise KeyboardInterrupt
        finally:
            pieces.close()


@pytest.mark.parametrize("after", [0, 3])
def test_ctrl_c_stops_a_reply_and_keeps_what_was_said(folder, capsys, after):
    lm = luthier.load(folder)
    conversation = Interrupted(lm.model, template_of(lm.tokenizer), GenerationSettings(max_new_tokens=50), 256)
    conversation.after = after
    chat.Talk(conversation, interactive=True).run(["Hello", "/nothing", "/quit", "never"])
    out, err = capsys.readouterr()
    if after:
        assert out == conversation.messages[-1]["content"] + "\n"
        assert conversation.messages[0]["content"] == "Hello"
        assert err.startswith("stopped\n")
    else:
        assert out == ""
        assert conversation.messages == []
        assert "your message is not kept" in err
    assert err.splitlines()[-1].startswith("luthier: no command /nothing")  # and the conversation goes on
    with pytest.raises(KeyboardInterrupt):
        chat.Talk(conversation, interactive=False).run(["Hello"])


class Terminal:
    """A person at a terminal: types, and reads what comes."""

    def __init__(self, *arguments):
        self.leader, follower = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
        command = [sys.executable, "-m", "luthier", "chat", *arguments]
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
        )
        os.close(follower)
        self.shown = b""

    def read_until(self, text, seconds=60.0):
        """What is shown before the text."""
        end = time.monotonic() + seconds
        while text.encode() not in self.shown:
            assert time.monotonic() < end, self.shown[-2000:]
            if select.select([self.leader], [], [], 0.2)[0]:
                self.shown += os.read(self.leader, 4096)
        before, _, self.shown = self.shown.partition(text.encode())
        return before.decode(errors="replace")

    def type(self, text):
        os.write(self.leader, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.leader)


@pytest.mark.slow
def test_at_a_terminal_lines_are_edited_replies_stopped_and_nothing_steers_the_screen(folder, tmp_path):
    path = tmp_path / "talk.json"
    here = Terminal(folder, "--max-new-tokens", "200", "--temperature", "5", "--top-p", "1", "--seed", "2")
    try:
        here.read_until("/help lists the commands")
        here.read_until(PROMPT)
        here.type("Helxo\x1b[D\x7fl\r")  # left and backspace: the line is edited
        here.read_until(NO_PROMPT)
        reply = here.read_until(PROMPT)
        here.type("/nothing\r")
        here.read_until("luthier: no command /nothing")
        here.read_until(PROMPT)
        here.type(f"/sa\t {path}\r")  # Tab completes a command
        here.read_until("1 turn saved in")
        here.read_until(PROMPT)
        here.type("\x03")
        here.read_until("Ctrl-D or /quit leaves")
        here.read_until(PROMPT)
        here.type("\x04")
        assert here.process.wait(60) == 0
    finally:
        here.close()
    asked, said = json.loads(path.read_text())["messages"]
    assert asked["content"] == "Hello"
    steering = {chr(code) for code in (*range(9), 11, 12, *range(14, 32), 127)}
    assert steering & set(said["content"])
    assert not steering & set(reply.partition("\x1b")[0])


def test_a_draft_changes_no_reply(folder, run):
    code, out, _ = run("Hello\nAnd you?\n", folder, *FEW)
    assert code == 0
    assert run("Hello\nAnd you?\n", folder, *FEW, "--draft", folder)[:2] == (0, out)
    code, _, err = run("Hello\n", folder, *FEW, "--draft", "nowhere")
    assert (code, err.count("\n")) == (1, 1)
    assert "nowhere" in err


def test_a_special_tokens_name_in_a_message_is_plain_text_with_a_remark(folder, run):
    code, _, err = run("Hello\nI write <|im_end|> here\n", folder, *FEW, "--system", "You are <|im_start|>.")
    assert code == 0
    said = "has {} in it, read as plain text and not as a special token"
    assert err.count("luthier: the message " + said.format("<|im_end|>")) == 1
    assert "the system prompt " + said.format("<|im_start|>") in err
    assert err.count("read as plain text") == 2
