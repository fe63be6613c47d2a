"""Loading any tokenizer, told apart by its files.

load("runs/demo")           # a folder: a training run, a Hugging Face model, one of Meta's or OpenAI's
load("tokenizer.json")
load("tokenizer.model")     # SentencePiece's, or tiktoken's as Meta writes it
load("gpt2")                # by name
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from luthier.errors import LuthierError
from luthier.tokenizers.core.files import read_bytes, read_object, read_text
from luthier.tokenizers.core.frame import set_frame
from luthier.tokenizers.core.plain import harden
from luthier.tokenizers.core.tokenizer import Tokenizer, is_backends
from luthier.tokenizers.formats.gpt2 import byte_level, gpt2
from luthier.tokenizers.formats.sentencepiece_model import read_sentencepiece
from luthier.tokenizers.formats.tiktoken_model import is_tiktoken, read_tiktoken

CONFIG = "tokenizer_config.json"
BYTE_LEVEL_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
BYTE_LEVEL_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
TAKES = (
    "a folder with a tokenizer.json, a tokenizer.model, or vocab.json with merges.txt (or encoder.json with "
    'vocab.bpe); a tokenizer.json; a .model of SentencePiece or tiktoken; or "gpt2"'
)


def load(path: str | Path) -> Tokenizer:
    """Open a tokenizer by path or name. Raises LuthierError that says what is wrong, or what can be given."""
    place = Path(path)
    if place.is_dir():
        return _from_folder(place)
    if place.is_file():
        return _from_file(place)
    if str(path) == "gpt2":
        return gpt2()
    raise LuthierError(f"there is no tokenizer {path}: give {TAKES}")


def _from_folder(folder: Path) -> Tokenizer:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return _from_file(folder / name)
    for vocabulary, merges in BYTE_LEVEL_FILES:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            settings = _settings(folder)
            if settings.get("tokenizer_class") not in BYTE_LEVEL_CLASSES:
                raise LuthierError(
                    f"{folder / vocabulary} belongs to a {settings['tokenizer_class']}, whose rules these files do not "
                    "hold: give a folder with its tokenizer.json"
                )
            prefix = bool(settings.get("add_prefix_space"))
            return _with_settings(byte_level(folder / vocabulary, folder / merges, add_prefix_space=prefix), folder)
    raise LuthierError(f"{folder} holds no tokenizer: give {TAKES}")


def _from_file(path: Path) -> Tokenizer:
    if path.name in {name for names in BYTE_LEVEL_FILES for name in names}:
        return _from_folder(path.parent)
    if path.suffix == ".json":
        tokenizer = _read_json(path)
    elif is_tiktoken(read_bytes(path)):
        tokenizer = read_tiktoken(path)
    else:
        tokenizer = read_sentencepiece(path)
    return _with_settings(tokenizer, path.parent) if path.stem == "tokenizer" else tokenizer


def _read_json(path: Path) -> Tokenizer:
    content = read_text(path)
    try:
        return Tokenizer(Backend.from_str(harden(content)))
    except LuthierError as error:
        raise LuthierError(f"{path}: {error}") from None
    except BaseException as error:
        if not is_backends(error):
            raise
        raise LuthierError(f"{path} is no tokenizer.json: {error}") from None


def _settings(folder: Path) -> dict[str, Any]:
    """What the files beside a tokenizer say of it; of two that say the same thing, the newer format's word counts."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG):
        if (folder / name).is_file():
            settings |= read_object(folder / name)
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = read_text(folder / "chat_template.jinja")
    # a folder of Meta's, whose models have all seen texts begin so; a tokenizer.json says its own rule
    if (folder / "params.json").is_file() and not (folder / "tokenizer.json").is_file():
        settings.setdefault("add_bos_token", True)
    return settings


def _with_settings(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The tokenizer with the roles, the end tokens and the chat template that the files beside it give."""
    settings, backend = _settings(folder), tokenizer.backend
    try:
        _add_tokens(backend, settings)
        roles = tokenizer.roles | {role: _content(settings[role]) for role in tokenizer.roles.keys() & settings.keys()}
        roles = {
            role: token if token and backend.token_to_id(token) is not None else None for role, token in roles.items()
        }
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


def _content(token: Any) -> str | None:
    """A token's text: some files hold it alone, some with its settings."""
    text = token["content"] if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{text!r} is no token")
    return text


def _add_tokens(backend: Backend, settings: dict[str, Any]) -> None:
    """The tokens that only tokenizer_config.json lists."""
    known = backend.get_added_tokens_decoder()
    for number, token in sorted(
        (int(number), token) for number, token in (settings.get("added_tokens_decoder") or {}).items()
    ):
        special = bool(token.get("special"))
        if number in known and known[number].special == special:
            continue
        flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
        added = AddedToken(token["content"], special=special, **flags)
        backend.add_special_tokens([added]) if special else backend.add_tokens([added])
        if backend.token_to_id(token["content"]) != number:
            raise ValueError(f"{token['content']!r} cannot be token {number}")


def _set_frame(backend: Backend, settings: dict[str, Any], bos: str | None, eos: str | None) -> None:
    """What `transformers` puts around a text, where the settings say so and not only tokenizer.json."""
    if "add_bos_token" not in settings and "add_eos_token" not in settings:
        return
    begin = bos if settings.get("add_bos_token") else None
    end = eos if settings.get("add_eos_token") else None
    set_frame(backend, begin, end)


def _end_tokens(folder: Path, backend: Backend) -> list[int]:
    """The ids that end a text, from generation_config.json, as far as this vocabulary has them."""
    path = folder / "generation_config.json"
    ends = read_object(path).get("eos_token_id") if path.is_file() else None
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in ends if isinstance(end, int) and backend.id_to_token(end) is not None]


def _chat_template(template: Any) -> str | None:
    """The template, or of several named ones the default."""
    if isinstance(template, list):
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template if isinstance(template, str) else None
