"""Tokenizer settings in other files of a folder: special tokens, added tokens, end tokens, chat template.

These are tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja, generation_config.json
and config.json, read as `transformers` 5 reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from luthier.errors import LuthierError, remark
from luthier.files.json_files import read_json
from luthier.files.reading import read_text
from luthier.tokenizers.core.post_processor import set_post_processor
from luthier.tokenizers.core.tokenizer import Tokenizer

CONFIG, ADDED, ROLES = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
LISTED = "added_tokens_decoder"  # of tokenizer_config.json: every added token, so that the two other files are older
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")


def settings_of(folder: Path) -> dict[str, Any]:
    """What the files in a folder say. special_tokens_map.json and added_tokens.json count as `transformers` has it:
    before tokenizer_config.json, and not at all where that lists the added tokens itself.
    """
    settings = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if LISTED not in settings:
        if (folder / ROLES).is_file():
            settings |= read_json(folder / ROLES)
        if (folder / ADDED).is_file():
            settings[ADDED] = read_json(folder / ADDED)
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = read_text(folder / "chat_template.jinja")
    # a folder of Meta's, whose models have all seen texts begin so; a tokenizer.json says its own rule
    if (folder / "params.json").is_file() and not (folder / "tokenizer.json").is_file():
        settings.setdefault("add_bos_token", True)
    return settings


def with_settings(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The tokenizer with the roles, the added and the end tokens and the chat template that a folder's files give.

    Raises LuthierError for invalid files, and for a special token that is not in the vocabulary.
    """
    settings, backend = settings_of(folder), tokenizer.backend
    try:
        _add_tokens(backend, settings, _room(folder))
        roles = tokenizer.roles | _roles(settings, backend, tokenizer.roles)
        _set_frame(backend, settings, roles["bos_token"], roles["eos_token"])
        ends = _end_tokens(folder, backend) or (tokenizer.eos_ids if len(tokenizer.eos_ids) > 1 else ())
        return Tokenizer(
            backend,
            bos=roles["bos_token"],
            eos=roles["eos_token"],
            pad=roles["pad_token"],
            unk=roles["unk_token"],
            eos_ids=ends,
            chat_template=_chat_template(settings.get("chat_template")),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise LuthierError(f"{folder / CONFIG} cannot be understood: {error!r}") from None
    except LuthierError as error:
        raise LuthierError(f"{folder}: {error}") from None


def _roles(settings: dict[str, Any], backend: Backend, known: Iterable[str]) -> dict[str, str | None]:
    """The tokens that the settings give a role. An unknown token that is none changes nothing, so it is left out."""
    roles = {role: _content(settings[role]) for role in known if role in settings}
    for role, token in roles.items():
        if token is None or backend.token_to_id(token) is not None:
            continue
        if role != "unk_token":
            raise LuthierError(
                f"the {role} {token!r:.80} that {CONFIG} or {ROLES} names is not in the vocabulary: take the "
                f"{ADDED} or tokenizer.json that belongs to it, or name another token"
            )
        remark(f"the unk_token {token!r:.80} is not in the vocabulary: there is none")
        roles[role] = None
    return roles


def _content(token: Any) -> str | None:
    """A token's text: some files hold it alone, some with its settings."""
    text = token["content"] if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{text!r} is no token")
    return text


def _add_tokens(backend: Backend, settings: dict[str, Any], room: float) -> None:
    """The tokens that only these files list. Each must get the id that its file gives it. room: the model's tokens."""
    listed = {int(number): token for number, token in (settings.get(LISTED) or {}).items()}
    special = [_content(token) for key in MORE_SPECIAL for token in _values(settings.get(key))]
    roles = [
        _content(token) for role, token in settings.items() if role.endswith("_token") and isinstance(token, str | dict)
    ]
    for text, number in (settings.get(ADDED) or {}).items():
        if not isinstance(number, int):
            raise TypeError(f"{number!r} is no token's number ({ADDED})")
        named = text in special or text in roles
        # as transformers has it: what the files give no role is found in a text, and is no special token
        listed[number] = {"content": text, "special": named, "normalized": not named}
    known = backend.get_added_tokens_decoder()
    for number, token in sorted(listed.items()):
        if (
            number in known
            and known[number].content == token["content"]
            and known[number].special == bool(token.get("special"))
        ):
            continue
        _add(backend, token)
        if backend.token_to_id(token["content"]) != number:
            raise LuthierError(
                f"{token['content']!r:.80} cannot be token {number}, as {CONFIG} or {ADDED} has it: the vocabulary has "
                f"{backend.get_vocab_size(with_added_tokens=True)} tokens"
            )
    for text in special:  # those that the model has no room for are left out: it cannot have learned them
        if text is not None and (
            backend.token_to_id(text) is not None or backend.get_vocab_size(with_added_tokens=True) < room
        ):
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _room(folder: Path) -> float:
    """The vocabulary size of the model in the tokenizer's folder."""
    values = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    size = values.get("vocab_size")
    return size if type(size) is int else math.inf


def _add(backend: Backend, token: dict[str, Any]) -> None:
    special = bool(token.get("special"))
    flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    added = AddedToken(token["content"], special=special, **flags)
    backend.add_special_tokens([added]) if special else backend.add_tokens([added])


def _values(tokens: Any) -> list[Any]:
    """The tokens of a list, or of a dictionary of names."""
    if isinstance(tokens, dict):
        return list(tokens.values())
    return tokens or []


def _set_frame(backend: Backend, settings: dict[str, Any], bos: str | None, eos: str | None) -> None:
    """What `transformers` puts around a text, where the settings say so and not only tokenizer.json."""
    if "add_bos_token" not in settings and "add_eos_token" not in settings:
        return
    begin = bos if settings.get("add_bos_token") else None
    end = eos if settings.get("add_eos_token") else None
    set_post_processor(backend, begin, end)


def _end_tokens(folder: Path, backend: Backend) -> list[int]:
    """The ids that end a text, as far as this vocabulary has them: from generation_config.json, or, where that file is
    not there, from config.json, as `transformers` has it.
    """
    paths = (folder / "generation_config.json", folder / "config.json")
    values = next((read_json(path) for path in paths if path.is_file()), {})
    inner = values.get("text_config")  # of models that take pictures too
    ends = values.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in ends if type(end) is int and end >= 0 and backend.id_to_token(end) is not None]


def _chat_template(template: Any) -> str | None:
    """The template, or of several named ones the default."""
    if isinstance(template, list):
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template if isinstance(template, str) else None
