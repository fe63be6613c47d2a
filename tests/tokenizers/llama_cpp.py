"""What llama.cpp makes of a text: a model file with a vocabulary and hardly any weights, and its tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest

DIM = 32
SECONDS = 60  # to open a file, or to answer


def write_vocabulary(path: Path, fields: dict[str, Any]) -> Path:
    """A Llama of one layer, all zeros, with these metadata of a tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(DIM)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in fields.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    square, row = numpy.zeros((DIM, DIM), numpy.float32), numpy.zeros(DIM, numpy.float32)
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    weights = {f"blk.0.{name}": square for name in names} | {f"blk.0.{name}": row for name in ("attn_norm", "ffn_norm")}
    size = len(fields["tokenizer.ggml.tokens"])
    weights |= {"output_norm": row, "token_embd": numpy.zeros((size, DIM), numpy.float32)}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class LlamaCpp:
    """llama.cpp's tokenizer of one file."""

    def __init__(self, address: str) -> None:
        self.address = address

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return self._ask("tokenize", {"content": text, "parse_special": special, "add_special": bos})["tokens"]

    def decode(self, ids: list[int]) -> str:
        return self._ask("detokenize", {"tokens": ids})["content"]

    def _ask(self, verb: str, question: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/{verb}", json.dumps(question).encode(), headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.loads(answer.read())


SERVES = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 64, 1, 1
params.warmup = False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_cpp(path: Path) -> Iterator[LlamaCpp]:
    """llama.cpp with a file, as long as the block lasts: in a process of its own, since its end may hang."""
    pytest.importorskip("xllamacpp")
    command = [sys.executable, "-c", SERVES, str(path)]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True) as process:
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        address = process.stdout.readline().strip()
        limit.cancel()
        assert address, "llama.cpp could not open the file"
        try:
            yield LlamaCpp(address)
        finally:
            process.kill()
