"""The table of families in docs/families.md: sizes, differences from transformers and llama.cpp, the compiled step.

    python tools/families.py --write

renews the page, in about two minutes. It needs the packages of `dev`. The models are those of the tests: tiny, random,
in float32, with every setting that published models have.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "families.md"
SMALL = ("nano", "micro", "mini")
LENGTH, FIRST = 28, 12  # tokens of a text, and of the prompt where it is read through a cache
HEAD = """# Families of models

Made by `python tools/families.py --write`. Each family is opened, trained, written and inspected like any other.

- Difference from transformers: the largest of any logit, over tiny random models in float32 that have every setting of
  published ones; texts cross their windows and the context that scalings of rotary positions start from. Read at once,
  and token by token with both programs' caches.
- Difference from llama.cpp: the largest of the log-probabilities of 12 greedy tokens, by both programs from one file;
  "other text" where the tokens differ, "-" where no setting of it computes the same.
- Compiled step: what generates fast on CPUs that have it. Other families are computed by PyTorch.

| family | classes in transformers | transformers | with caches | llama.cpp | compiled step |
|---|---|---|---|---|---|
"""
SIZES_HEAD = """
## Published sizes

Parameters are counted without memory, and equal those of the published files. Every family also has a nano, a micro and
a mini for a CPU: `luthier train book.txt --preset qwen3-nano`.

| preset | parameters | of which a token meets |
|---|---|---|
"""


def tests() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules of tests that have the models: transformers' peers, those of GGUF, and how llama.cpp is run."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    sys.path[:0] = [str(ROOT / "tests" / name) for name in ("parity", "model_files")]
    import gguf_models
    import peers
    import test_gguf_llama_cpp

    return peers, gguf_models, test_gguf_llama_cpp


def by_transformers(peers: ModuleType) -> Iterator[tuple[str, float, float]]:
    """Of every model of the tests: its family, and the largest differences at once and with caches."""
    import torch
    from transformers import DynamicCache

    from luthier.architectures.registry import name_of
    from luthier.model_files import hugging_face

    pieces = [(0, FIRST), *((place, place + 1) for place in range(FIRST, LENGTH))]
    for make in peers.MODELS.values():
        peer = make()
        config = hugging_face.read_config({**peer.config.to_dict(), "architectures": [type(peer).__name__]})
        ours, text = peers.twin(peer), peers.tokens(length=LENGTH)
        with torch.no_grad():
            whole = float((ours(text) - peer(text).logits).abs().max())
            cache, theirs, apart = ours.make_cache(LENGTH), DynamicCache(config=peer.config), 0.0
            for begin, end in pieces:
                logits = peer(text[:, begin:end], past_key_values=theirs, use_cache=True).logits
                apart = max(apart, float((ours(text[:, begin:end], cache) - logits).abs().max()))
        yield name_of(config), whole, apart


def by_llama_cpp(models: ModuleType, runner: ModuleType) -> Iterator[tuple[str, float | None]]:
    """Of every model of the tests: its family, and the largest difference of log-probabilities; None: another text."""
    from luthier.architectures.registry import name_of
    from luthier.model_files import gguf
    from luthier.model_files.weights import LoadedModel

    runner.gguf.to_gguf = lambda tokenizer, vocab_size: runner.SETTINGS
    for config in models.CONFIGS.values():
        model = models.random_model(config)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.gguf"
            gguf.write(path, LoadedModel(model, config, "a tokenizer"))  # type: ignore[arg-type]
            theirs = runner.llama_cpp(path, runner.PROMPT, n_predict=runner.STEPS)
        ours = runner.ours(model, runner.PROMPT, runner.STEPS)
        same = [token for token, _ in theirs] == [token for token, _ in ours]
        yield name_of(config), max(abs(a - b) for (_, a), (_, b) in zip(theirs, ours, strict=True)) if same else None


def compiled(family: str) -> str:
    """Whether the compiled step takes the family's smallest size, or why not."""
    import torch

    from luthier.architectures import registry
    from luthier.native.program import unsupported_reason

    reason = unsupported_reason(registry.build(f"{family}-nano", dtype=torch.bfloat16).eval())
    return "yes" if reason is None else f"no: {reason}"


def page() -> str:
    """The whole page."""
    from luthier.architectures import registry

    warnings.simplefilter("ignore")
    peers, models, runner = tests()
    whole: dict[str, float] = defaultdict(float)
    cached: dict[str, float] = defaultdict(float)
    for family, at_once, with_caches in by_transformers(peers):
        whole[family], cached[family] = max(whole[family], at_once), max(cached[family], with_caches)
    llama_cpp: dict[str, list[float | None]] = defaultdict(list)
    for family, difference in by_llama_cpp(models, runner):
        llama_cpp[family].append(difference)
    rows, sizes = [], []
    for name, family in registry.FAMILIES.items():
        found = llama_cpp[name]
        numbers = [number for number in found if number is not None]
        other = "-" if not found else f"{max(numbers):.0e}" if len(numbers) == len(found) else "other text"
        classes = ", ".join(each for each in family.formats["hf"].classes if "LM" in each or "Generation" in each)
        measured = f"{whole[name]:.0e} | {cached[name]:.0e}" if name in whole else "- | -"  # not in transformers
        rows.append(f"| {name} | {classes} | {measured} | {other} | {compiled(name)} |\n")
        for preset, config in family.sizes.items():
            if not preset.endswith(SMALL):
                total, active = registry.count_parameters(config)
                sizes.append(f"| {preset} | {total:,} | {'all' if active == total else f'{active:,}'} |\n")
    return "".join([HEAD, *rows, SIZES_HEAD, *sizes])


def main(arguments: list[str]) -> None:
    """Print the page, or write it."""
    text = page()
    if arguments == ["--write"]:
        PAGE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
