"""A conversation: what the model is shown, what is kept, and what is left out when the context is full."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from luthier.architectures import llama, registry
from luthier.errors import LuthierError
from luthier.generation import conversation as module
from luthier.generation.conversation import Conversation
from luthier.generation.generate import generate
from luthier.generation.settings import GenerationSettings
from luthier.tokenizers.chat import template_sandbox
from luthier.tokenizers.chat.chat_template import FOLDER, ChatTemplate
from luthier.tokenizers.core.tokenizer import Tokenizer

TURNS = ("<|im_start|>", "<|im_end|>")
FEW = GenerationSettings(max_new_tokens=6, temperature=0)


class Template(ChatTemplate):
    """ChatML, rendered in this process, which counts how often it is asked."""

    asked = 0

    def _run(self, conversations, answer):
        self.asked += 1
        return template_sandbox.render(self.source, list(conversations), {"add_generation_prompt": answer})


@pytest.fixture(scope="module")
def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate([*alphabet, *TURNS])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TURNS])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def model():
    model = registry.build(llama.Config(258, 512, 32, 64, 2, 4, 2))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return model.eval()


@pytest.fixture
def talk(model, tokenizer):
    def begin(settings=FEW, context_length=512, system=None):
        template = Template((FOLDER / "chatml.jinja").read_text(), tokenizer)
        return Conversation(model, template, settings, context_length, system)

    return begin


def test_the_model_sees_all_that_was_said(talk, model, tokenizer):
    conversation = talk(system="Be kind")
    first = "".join(conversation.reply("Hello"))
    second = "".join(conversation.reply("And you?"))
    assert conversation.messages == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And you?"},
        {"role": "assistant", "content": second},
    ]
    shown = [{"role": "system", "content": "Be kind"}, *conversation.messages[:3]]
    prompt = conversation.template.encode(shown)
    assert tokenizer.decode(prompt).startswith(
        "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHello<|im_end|>"
    )
    [result] = generate(model, tokenizer, [prompt], conversation.settings, 512)
    assert (result.text, conversation.last.ids) == (second, result.ids)


def test_the_templates_end_of_turn_ends_a_reply(talk, tokenizer, monkeypatch):
    conversation = talk()
    assert conversation.settings.stop == ("<|im_end|>",)
    ids = iter([*tokenizer.encode("Yes"), tokenizer.special_tokens["<|im_end|>"], *tokenizer.encode("No")])

    def speaks(model, rows, settings, draft):
        while not rows[0].ended:
            yield rows[0], rows[0].add(next(ids), 0.0)

    monkeypatch.setattr(module, "generate_stream", speaks)
    assert "".join(conversation.reply("Hello")) == "Yes"
    assert conversation.last.finish_reason == "stop"
    assert conversation.messages[-1] == {"role": "assistant", "content": "Yes"}


def test_each_turn_draws_anew_and_the_same_when_it_is_said_again(talk):
    draws = GenerationSettings(max_new_tokens=12, temperature=2, top_p=None, seed=5)
    conversation, again = talk(draws), talk(draws)
    for text in ("Hello", "Hello"):
        assert "".join(conversation.reply(text)) == "".join(again.reply(text))
    last = conversation.messages[-1]["content"]
    assert conversation.undo() == {"role": "user", "content": "Hello"}
    assert len(conversation.messages) == 2
    assert "".join(conversation.reply("Hello")) == last


def test_a_reply_broken_off_is_kept_as_far_as_it_came(talk):
    conversation = talk(GenerationSettings(max_new_tokens=50, temperature=0))
    with closing(conversation.reply("Hello")) as pieces:
        said = next(pieces) + next(pieces)
    assert conversation.messages[-1]["content"] == said
    assert conversation.last.finish_reason is None
    conversation.reply("never read").close()
    assert len(conversation.messages) == 2


def test_what_goes_wrong_leaves_all_as_it_was(talk, monkeypatch):
    conversation = talk()
    "".join(conversation.reply("Hello"))
    before = list(conversation.messages)
    for wrong, message in [("a\ud800", "surrogate"), ("x" * 600, "shorten it")]:
        with pytest.raises(LuthierError, match=message):
            conversation.reply(wrong)

    def fails(*_):
        yield from ()
        raise LuthierError("NaN")

    monkeypatch.setattr(module, "generate_stream", fails)
    with pytest.raises(LuthierError, match="NaN"):
        "".join(conversation.reply("Hello"))
    assert conversation.messages == before


def test_the_oldest_turns_are_left_out_when_the_context_is_full(talk):
    conversation = talk(GenerationSettings(max_new_tokens=8, temperature=0), context_length=256, system="Be kind")
    for number in range(12):
        conversation.messages += [
            {"role": "user", "content": f"question {number:02}"},
            {"role": "assistant", "content": f"answer {number:02}"},
        ]
    asked = {"role": "user", "content": "and now?"}
    prompt = conversation.template.tokenizer.decode(conversation.prompt(asked))
    n_truncated = conversation.n_truncated
    assert n_truncated > 0
    assert prompt.startswith("<|im_start|>system\nBe kind<|im_end|>")
    assert f"question {n_truncated - 1:02}" not in prompt
    assert f"answer {n_truncated - 1:02}" not in prompt
    assert all(f"question {n:02}" in prompt and f"answer {n:02}" in prompt for n in range(n_truncated, 12))
    assert len(prompt.encode()) > 100
    assert len(conversation.prompt(asked)) <= 256 - 8
    system = {"role": "system", "content": "Be kind"}
    one_more = [system, *conversation.messages[2 * n_truncated - 2 :], asked]
    assert len(conversation.template.encode(one_more)) > 256 - 8  # no more than is needed
    asks = conversation.template.asked
    "".join(conversation.reply("and now?"))
    assert conversation.template.asked <= asks + 4  # and it is not sought from the beginning each time
    assert len(conversation.messages) == 26  # what is left out is still there


def test_a_conversation_comes_back_from_its_file(talk, tmp_path):
    path = tmp_path / "sub" / "talk.json"
    first = talk(system="Où ?")
    "".join(first.reply("Hello"))
    first.save(path)
    saved = json.loads(path.read_text())
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    second = talk()
    second.load(path)
    assert (second.system, second.messages) == ("Où ?", first.messages)
    assert "".join(second.reply("And?")) == "".join(first.reply("And?"))
    second.save(path)
    third = talk(system="gone")
    third.save(tmp_path / "empty.json")
    third.system = None
    third.save(tmp_path / "nothing.json")
    third.load(tmp_path / "nothing.json")
    assert (third.system, third.messages) == (None, [])


def test_a_file_that_is_something_else_is_not_overwritten(talk, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("precious")
    with pytest.raises(LuthierError, match="is not a conversation: choose another name"):
        talk().save(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ("{}", "no list"),
        ('{"messages": {}}', "no list"),
        ('{"messages": [1]}', "no list"),
        ('{"messages": [{"role": "user"}]}', "role and a content"),
        ('{"messages": [{"role": "user", "content": 3}]}', "both text"),
        ('{"messages": [{"role": "root", "content": ""}]}', "root"),
        ('{"messages": [{"role": ["user"], "content": ""}]}', "role"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "must alternate"),
        ('{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]}', "must alternate"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "must alternate"),
    ],
)
def test_a_file_that_holds_no_conversation_is_refused(talk, tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    conversation = talk(system="stays")
    "".join(conversation.reply("Hello"))
    with pytest.raises(LuthierError, match=message) as caught:
        conversation.load(path)
    assert "wrong.json" in str(caught.value)
    assert (conversation.system, len(conversation.messages)) == ("stays", 2)
    with pytest.raises(LuthierError, match="cannot be read"):
        conversation.load(tmp_path / "missing.json")


def test_reset_forgets_the_turns_and_keeps_the_system_prompt(talk):
    conversation = talk(system="Be kind")
    "".join(conversation.reply("Hello"))
    conversation.reset()
    assert (conversation.messages, conversation.system) == ([], "Be kind")
    assert conversation.undo() is None
