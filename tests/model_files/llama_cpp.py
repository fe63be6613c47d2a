"""Runs llama.cpp on a GGUF file and prints what it writes: `python llama_cpp.py FILE`, a JSON request on stdin.

A process of its own: what llama.cpp does not like ends it.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import xllamacpp

    request = json.load(sys.stdin)
    settings = xllamacpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers, settings.warmup = request.pop("n_ctx"), 1, 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it would round to F16
    print("\n" + json.dumps(xllamacpp.Server(settings).handle_completions(request)))


if __name__ == "__main__":
    main()
