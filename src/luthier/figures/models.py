"""The trained models that figures are drawn from: a given one, or small ones trained on demand.

Shapes: T tokens, C dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from luthier.architectures import registry
from luthier.errors import LuthierError
from luthier.files.unfinished import scratch_folder
from luthier.language_model import LanguageModel, load
from luthier.model.moe import MoE
from luthier.run import train
from luthier.run.folder import RunFolder
from luthier.run.json_lines import read_lines
from luthier.run.plan import resolve
from luthier.terminal.printing import say

TEXT = "The function returns a new list of the items in the string, and raises an error if it is empty."
LONGER = (
    " This method is called when the object is created. The value of the argument must be a number or a string, and "
    "the default is None. If the file does not exist, the exception is raised by the function that opens it. Each "
    "class can define its own methods, which are used by the interpreter to compare the objects and to print them."
)
# a small model that learns quickly (see recipes/demo.toml)
RECIPE: dict[str, Any] = {
    "tokenizer": "bpe", "vocab_size": 512, "batch_size": 16, "optimizer": "muon", "learning_rate": 4e-3,
    "schedule": "wsd", "decay": 0.4, "final_lr_fraction": 0.0, "eval_batches": 4, "sample_interval": 10**9,
    "save_interval": 10**9, "sample_tokens": 1, "compile": "no",
}  # fmt: skip
STEPS = 200


class Models:
    """Context manager; models trained in it are deleted at the end. Each is loaded or trained on first use.

    given: path of any model that loads, used for the figures that it suits. text: its input. options, model: overrides
    of the small models' training settings and Configs. told: called with a message before slow work.
    """

    def __init__(
        self,
        given: str | Path | None = None,
        *,
        text: str = TEXT,
        data: tuple[str, ...] = (),
        options: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        told: Callable[[str], None] = say,
    ) -> None:
        self.path, self._text, self.data, self.told = given, text, data, told
        self.read_model = self.read_text = False
        self.options, self.model = (
            {**RECIPE, "steps": STEPS, **(options or {})},
            {"context_length": 64, **(model or {})},
        )

    def __enter__(self) -> Self:
        self.open = ExitStack()
        self.folder = self.open.enter_context(scratch_folder("figures"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.close()

    @cached_property
    def given(self) -> LanguageModel | None:
        """The given model, in float32."""
        return None if self.path is None else load(self.path, dtype=torch.float32)

    @property
    def text(self) -> str:
        """What the models read. read_text is true from here on."""
        self.read_text = True
        return self._text

    def given_if(self, suits: Callable[[LanguageModel], bool]) -> LanguageModel | None:
        """The given model if it suits a figure; read_model is then true from here on."""
        if self.given is None or not suits(self.given):
            return None
        self.read_model = True
        return self.given

    @property
    def lm(self) -> LanguageModel:
        """The given model, or a small GPT-2."""
        return self.given_if(lambda lm: True) or self.gpt2

    @property
    def with_positions(self) -> LanguageModel:
        """A model with learned positions."""
        return self.given_if(lambda lm: lm.model.position_embedding is not None) or self.gpt2

    @property
    def with_experts(self) -> LanguageModel:
        """A model with a mixture of experts."""
        return self.given_if(lambda lm: any(isinstance(part, MoE) for part in lm.model.modules())) or self.llama4

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluation records of the model's training; of a small GPT-2 if the given model has none."""
        logged = [] if self.path is None else read_lines(RunFolder(Path(self.path)).metrics)
        self.read_model |= bool(logged)
        return logged or read_lines(RunFolder(self.trained("gpt2-nano")).metrics)

    @cached_property
    def gpt2(self) -> LanguageModel:
        """A small GPT-2."""
        return load(self.trained("gpt2-nano"))

    @cached_property
    def llama4(self) -> LanguageModel:
        """A small Llama 4."""
        return load(self.trained("llama4-nano"))

    def trained(self, preset: str) -> Path:
        """Run folder of this preset; trains it if it does not exist yet."""
        out = self.folder / preset
        if not out.exists():
            chunk = {"attention_chunk": self.model["context_length"] // 2} if preset.startswith("llama4") else {}
            sizes = {**self.model, **chunk}
            plan = resolve(self.data, options={**self.options, "preset": preset}, model=sizes)
            total, _ = registry.count_parameters(plan.model)
            self.told(f"training a {preset} of {total:,} parameters for {plan.settings.steps} steps, to look into")
            # a run's output would hide the list of figures; and a figure may call this within no_grad
            with torch.enable_grad(), redirect_stdout(StringIO()):
                train.start(plan, out)
        return out

    def ids(self, lm: LanguageModel, limit: int, text: str | None = None) -> list[int]:
        """Encode the text for the model, up to `limit` tokens."""
        ids = lm.tokenizer.encode(self.text if text is None else text, bos=lm.tokenizer.adds_bos)
        ids = ids[: min(limit, lm.config.context_length)]
        if len(ids) < 2:
            raise LuthierError(f"the text {self.text!r} is {len(ids)} tokens: give one of two at least")
        return ids


def entering(parts: Sequence[nn.Module], lm: LanguageModel, ids: list[int]) -> list[Tensor]:
    """Inputs of these modules in a forward pass on the ids, (T, C) each."""
    caught: dict[nn.Module, Tensor] = {}
    handles = [part.register_forward_pre_hook(lambda part, given: caught.update({part: given[0]})) for part in parts]
    try:
        with torch.no_grad():
            lm.model(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return [caught[part].flatten(0, -2) for part in parts]
