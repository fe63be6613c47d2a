"""Those who train in benchmarks/train.py, each alone in its process: `python contestants.py NAME SPEC`.

A contestant is a function that takes a Spec and gives one training step. The process says that it is ready, trains as
many steps as each line on its standard input asks for, and answers with a line of JSON: the seconds of each step, and
the most memory that it has held.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from child import answer
from luthier.architectures import gpt2, llama4, registry
from luthier.data.batches import Batch
from luthier.memory import peak_memory
from luthier.model_files import hugging_face
from luthier.training.loop import Trainer
from luthier.training.machine import (
    has_compiler,
    has_fast_bfloat16,
    keep_freed_memory,
)
from luthier.training.settings import Settings

CPU = torch.device("cpu")
Step = Callable[[], Any]


@dataclass(frozen=True)
class Spec:
    """What is trained: the same for all contestants of a round."""

    model: str  # "gpt2-course" or "gpt2-124m", Luthier's presets, or "llama4"
    dropout: float = 0.0
    batch_size: int = 2
    context_length: int = 256  # tokens
    learning_rate: float = 4e-4
    weight_decay: float = 0.1
    tiny: bool = False  # for the tests: a model that trains in no time

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.context_length

    def config(self) -> registry.Config:
        """The model, as Luthier says it."""
        if self.model != "llama4":
            small = {"dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 128} if self.tiny else {}
            return registry.preset(self.model, context_length=self.context_length, dropout=self.dropout, **small)
        dim, layers, vocabulary, experts = (64, 2, 128, 4) if self.tiny else (256, 8, 8192, 16)
        return llama4.Config(
            vocabulary, self.context_length, dim, hidden_dim=2 * dim, dense_hidden_dim=4 * dim, n_layers=layers,
            n_heads=dim // 32, n_kv_heads=2, head_dim=32, n_experts=experts, attention_chunk=128,
            dropout=self.dropout,
        )  # fmt: skip


class RandomIds:
    """Fresh random ids for each step, the same for every contestant."""

    epoch, batches_per_epoch = 0.0, 1

    def __init__(self, spec: Spec) -> None:
        self.shape = (spec.batch_size, spec.context_length + 1)
        self.vocab_size = spec.config().vocab_size
        self.generator = torch.Generator().manual_seed(0)

    def next_batch(self) -> Batch:
        ids = torch.randint(self.vocab_size, self.shape, generator=self.generator)
        return Batch(ids[:, :-1], ids[:, 1:])

    def state(self) -> dict[str, Any]:
        return {"batches": 0}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def luthier(spec: Spec, *, activation_checkpointing: bool = False) -> Step:
    """As `luthier train` does it on a run long enough to be compiled."""
    keep_freed_memory()
    settings = Settings(
        learning_rate=spec.learning_rate, weight_decay=spec.weight_decay, beta2=0.999, batch_size=spec.batch_size,
        schedule="constant", warmup=0, max_grad_norm=0, activation_checkpointing=activation_checkpointing,
    )  # fmt: skip
    dtype = torch.bfloat16 if has_fast_bfloat16(CPU) else torch.float32
    trainer = Trainer(registry.build(spec.config(), seed=1), RandomIds(spec), settings, 10**6, dtype)
    if has_compiler(CPU) and not spec.tiny:
        trainer.compile()
    return trainer.train_step


def plain_loop(
    model: torch.nn.Module, logits: Callable[[Tensor], Tensor], spec: Spec, dtype: torch.dtype = torch.float32
) -> Step:
    """AdamW and nothing more: the loop of "LLMs from scratch". dtype: of the products, by autocast."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    batches = RandomIds(spec)

    def step() -> None:
        batch = batches.next_batch()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = logits(batch.inputs)
        F.cross_entropy(found.float().flatten(0, 1), batch.targets.flatten()).backward()
        optimizer.step()

    return step


def book(spec: Spec) -> Step:
    """The model of "Build a Large Language Model (From Scratch)", chapter 4, as it is published."""
    from llms_from_scratch.ch04 import GPTModel

    config = spec.config()
    assert isinstance(config, gpt2.Config)
    torch.manual_seed(1)
    model = GPTModel({
        "vocab_size": config.vocab_size, "context_length": config.context_length, "emb_dim": config.dim,
        "n_heads": config.n_heads, "n_layers": config.n_layers, "drop_rate": config.dropout,
        "qkv_bias": config.qkv_bias,
    })  # fmt: skip
    if config.tie_embeddings:
        model.out_head.weight = model.tok_emb.weight
    return plain_loop(model, model, spec)


def transformers(spec: Spec, dtype: torch.dtype = torch.float32) -> Step:
    """The same model in Hugging Face's transformers: its configuration is made from ours."""
    import transformers as peer

    config = spec.config()
    values = hugging_face.format_spec(config).settings.write(config)
    torch.manual_seed(1)
    model: Any
    if isinstance(config, gpt2.Config):
        # always with biases on q, k and v
        model = peer.GPT2LMHeadModel(peer.GPT2Config(**values))
    else:
        model = peer.Llama4ForCausalLM(peer.Llama4TextConfig(**values))
    return plain_loop(model, lambda ids: model(ids, use_cache=False).logits, spec, dtype)


CONTESTANTS: dict[str, Callable[[Spec], Step]] = {
    "luthier": luthier,
    "luthier, checkpointing": lambda spec: luthier(spec, activation_checkpointing=True),
    "book": book,
    "transformers": transformers,
    "transformers, bfloat16": lambda spec: transformers(spec, torch.bfloat16),
}


def parameters(step: Step) -> int:
    """Parameters of the model that a step trains; found in the optimizer that holds them all."""
    owner = getattr(step, "__self__", None)
    if isinstance(owner, Trainer):
        return sum(weight.numel() for weight in owner.model.parameters())
    cells = {cell.cell_contents for cell in step.__closure__ or () if isinstance(cell.cell_contents, torch.optim.AdamW)}
    return sum(weight.numel() for optimizer in cells for group in optimizer.param_groups for weight in group["params"])


def main() -> None:
    """Get ready, then train as many steps as each line asks for."""
    name, spec = sys.argv[1], Spec(**json.loads(sys.argv[2]))
    began = time.perf_counter()
    step = CONTESTANTS[name](spec)
    for _ in range(2 if name.startswith("luthier") else 1):  # the first compiles, or makes the optimizer's memory
        step()
    answer({"ready": True, "parameters": parameters(step), "preparing": time.perf_counter() - began})
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        answer({"seconds": seconds, "peak_memory": peak_memory(CPU)})


if __name__ == "__main__":
    main()
