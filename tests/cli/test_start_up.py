"""What the first token does not wait for: modules that `luthier generate` has no use for are not imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from talking_models import byte_tokenizer

from luthier.architectures import llama, registry
from luthier.language_model import LanguageModel

NEEDLESS = (
    "accelerate", "datasets", "gguf", "huggingface_hub", "jinja2", "matplotlib", "msgspec", "plotly", "prompt_toolkit",
    "pyarrow", "rich", "sentencepiece", "sympy", "tensorboard", "transformers",
    "torch._dynamo", "torch._inductor",
)  # fmt: skip
CODE = """
import sys
from luthier.cli.main import main
assert main(["generate", {path!r}, "a", "--max-new-tokens", "1", *{options!r}]) == 0
print("loaded:", *({needless!r} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    config = llama.Config(258, 64, dim=64, hidden_dim=128, n_layers=1, n_heads=2, n_kv_heads=2)  # 4 bits want 64 rows
    lm = LanguageModel(registry.build(config), byte_tokenizer(), config)
    lm.save(folder / "folder")
    lm.save(folder / "q8.gguf", format="gguf", quantize="Q8_0")
    lm.save(folder / "q4.gguf", format="gguf", quantize="Q4_0")
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [("folder", []), ("q8.gguf", []), ("q4.gguf", ["--quantize", "int4"]), ("q8.gguf", ["--quantize", "int8"])],
)
def test_generate_imports_nothing_needless(models, name, options):
    code = CODE.format(path=str(models / name), options=options, needless=set(NEEDLESS))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
