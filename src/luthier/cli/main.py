"""`luthier VERB ...`: finds the verb, runs it, and turns errors into one line and an exit code.

Nothing here imports torch, tyro or rich: `luthier --help` answers at once. Each verb is a module of this folder with
`main(arguments: list[str]) -> int`, imported only when it is called.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from contextlib import nullcontext
from importlib import import_module
from typing import TextIO

from luthier import __version__
from luthier.cli.memory import explanation, guarded, is_memory_error
from luthier.cli.surroundings import shown_log, spin_little
from luthier.errors import Interface, LuthierError, Remark, UsageError, interface
from luthier.terminal.characters import is_printable
from luthier.terminal.printing import fail, note, output
from luthier.terminal.streams import abandon, accept_any_character, filtered_stderr, hold_standard_streams

# verb: (module, one line of help), in the order in which a newcomer meets them
VERBS = {
    "train": ("train", "train a language model on a text: luthier train book.txt --out runs/book"),
    "torchrun": ("torchrun", "train in several processes: luthier torchrun --nproc-per-node 2 train book.txt"),
    "generate": ("generate", 'let a model speak: luthier generate runs/book "Once upon a time"'),
    "chat": ("chat", "talk with a model that was taught to: luthier chat SmolLM2-135M-Instruct.gguf"),
    "eval": ("eval", "loss and perplexity of models on a text: luthier eval runs/a runs/b book.txt"),
    "get": ("get", "download OpenAI's GPT-2: luthier get gpt2-124m"),
    "inspect": ("inspect", 'a page that shows what a model does: luthier inspect runs/book "Once upon"'),
    "compare": ("compare", 'where two models part: luthier compare A B "Once upon a time"'),
    "report": ("report", "a page of a run, or of several side by side: luthier report runs/book"),
    "ablate": ("ablate", "an ablation study: which part pays: luthier ablate book.txt --from gpt2 --to qwen3"),
    "ladder": ("ladder", "ablate --from gpt2 --to llama4, with a page: luthier ladder book.txt"),
    "figures": ("figures", "the course's pictures, from real modules and runs: luthier figures"),
    "convert": ("convert", "write a model in another format: luthier convert runs/book book.gguf --to gguf"),
    "verify": ("verify", "prove that a model or a run is sound: luthier verify runs/book"),
    "plan": ("plan", "what a training run will cost, in memory and time, before it starts"),
    "tokenizer": ("tokenizer", "train a tokenizer, or show how one cuts a text: luthier tokenizer show MODEL TEXT"),
    "data": ("data", "list the named corpora, or prepare a text as token shards: luthier data list"),
}
# options that name a path
PLACES = ("--out", "--json", "--recipe", "--draft", "--template", "--model", "--tokenizer", "--from", "--variants")
INTERRUPTED = 130  # the shell's code for Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 an error, 2 a wrong command line, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    hold_standard_streams()
    accept_any_character()
    spin_little()
    return guarded(lambda: answer(arguments))


def answer(arguments: list[str]) -> int:
    """Run one verb; an error is a line and an exit code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with shown_log() if debug else nullcontext(), warnings.catch_warnings(), interface(Interface(options=True)):
            warnings.simplefilter("always", Remark)
            warnings.showwarning = show_warning
            check_places(arguments)
            # the parsers of command lines print them in their errors
            with nullcontext() if all(map(is_printable, arguments)) else filtered_stderr():
                return run(arguments)
    except LuthierError as error:
        if debug:
            raise
        fail(str(error))
        return error.exit_code
    except KeyboardInterrupt as stopped:
        if debug:
            raise
        fail(str(stopped) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        abandon("stdout")
        return 0
    except SystemExit as end:  # tyro exits by itself after --help (0) and after a wrong command line (2)
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if debug:
            raise
        if is_memory_error(error):
            fail(explanation(error))
            return 1
        if isinstance(error, OSError) and error.strerror:  # a name that is too long, a folder that may not be read
            fail(f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror)
            return 1
        first_line = next(iter(str(error).strip().splitlines()), "")
        fail(f"unexpected {type(error).__name__}: {first_line} (run again with --debug to see where)")
        return 1


def check_places(arguments: list[str]) -> None:
    """A UsageError for an option that says where to write or read, and names nothing: it would be this very folder."""
    for option, value in zip(arguments, [*arguments, "."][1:], strict=True):
        if (option in PLACES and not value) or option in {f"{place}=" for place in PLACES}:
            raise UsageError(f"{option.rstrip('=')} is empty: name a place, or leave it out")


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a remark as one line; other warnings as Python does."""
    if issubclass(category, Remark):
        note(f"luthier: {message}")
    else:
        for each in warnings.formatwarning(message, category, filename, lineno, line).splitlines():
            note(each)


def run(arguments: list[str]) -> int:
    """Find the verb and call it."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        output(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        output(f"luthier {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the verbs are {', '.join(VERBS)}"
        raise UsageError(f"no verb '{verb}': {hint}")
    module = import_module(f"luthier.cli.{VERBS[verb][0]}")
    code: int = module.main(rest)
    return code


def usage() -> str:
    """The first screen: what there is, one line a verb."""
    lines = ["usage: luthier VERB ...", ""]
    lines += [f"  {verb:<10} {text}" for verb, (_, text) in VERBS.items()]
    lines += [
        "",
        "luthier VERB --help says more; --debug shows the traceback of an error, and which code computes; --version.",
    ]
    return "\n".join(lines)
