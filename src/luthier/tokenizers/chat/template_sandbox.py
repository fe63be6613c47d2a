"""The program that a chat template runs in: a process of its own, with little time, little memory and no files.

Templates are untrusted. Jinja's sandbox blocks access to Python's internals, but not endless loops or `"a" * 10**10`;
only a process can be stopped during either. Reads a JSON object from stdin, {"template", "conversations", "variables"},
and writes a JSON list: for each conversation {"text"} or {"error"}. It only imports the standard library and jinja2, so
that it starts in a tenth of a second.

The environment is that of transformers' `apply_chat_template`, so that templates written for it work here.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2.debug  # else imported at the first error, when no file can be opened any more
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 2
MEMORY = 512 * 2**20  # bytes of address space; Linux keeps to it, other systems may not
LONGEST = 8 * 2**20  # characters of a rendered conversation


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, around what the model wrote: for training, here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (a class variable in jinja too)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, where reaching for Python's insides is an error at once and not first when it is used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        if attribute.startswith("_"):
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")
        return super().unsafe_undefined(obj, attribute)


class PublicNamespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no self: an attribute may have that name
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name}")


def environment() -> Sandbox:
    """Jinja as chat templates expect it."""
    now = datetime.now()  # once: all conversations of a request are rendered at the same time

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:  # jinja's own escapes what HTML does not allow
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:  # the class itself has attributes that are no business
        return dict(*args, **kwargs)

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": now.strftime,
        "dict": new_dict,
        "namespace": PublicNamespace,
    }
    return made


def render(template: str, conversations: list[Any], variables: dict[str, Any]) -> list[dict[str, str]]:
    """Each conversation as the template writes it, or the error that it ended in."""
    try:
        compiled = environment().from_string(template)
    except Exception as error:
        return [{"error": _line(error)}] * len(conversations)
    answers = []
    for messages in conversations:
        try:
            parts, length = [], 0
            for part in compiled.generate(messages=messages, **variables):
                parts.append(part)
                length += len(part)
                if length > LONGEST:
                    raise TemplateError(f"it writes more than {LONGEST:,} characters")
            answers.append({"text": "".join(parts)})
        except Exception as error:
            answers.append({"error": _line(error)})
    return answers


def _line(error: Exception) -> str:
    """What went wrong, in a line that cannot steer a terminal: a template writes its own errors."""
    if isinstance(error, MemoryError):
        return f"it needs more than {MEMORY // 2**20} MB"
    kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
    text = " ".join(f"{kind}{str(error)[:1000]}".split())
    return "".join(character if character.isprintable() else "?" for character in text)[:300]


def limit() -> None:
    """Limit CPU time, memory, files and processes, as far as the system supports it."""
    try:
        import resource
    except ImportError:  # Windows: then only the clock of the process that waits ends a template
        return
    limits = {"RLIMIT_CPU": CPU_SECONDS, "RLIMIT_AS": MEMORY}
    limits |= dict.fromkeys(("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE"), 0)
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    """Answer one request."""
    # what Python would fetch from files later
    assert jinja2.debug
    codecs.lookup("unicode-escape")
    datetime.now().astimezone()
    limit()
    request = json.loads(sys.stdin.buffer.read())
    answers = render(request["template"], request["conversations"], request["variables"])
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
