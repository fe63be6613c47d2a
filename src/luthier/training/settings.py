"""Every setting of a training run, in one flat table.

The fields are the keys of the TOML file and the options of `luthier train`; their texts are its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Every setting of a training run."""

    # what is trained, and on what
    preset: str = "llama-nano"
    """The model's size, by name: gpt2-124m, llama-micro, llama4-nano, ..."""
    tokenizer: str = "bpe"
    """"bpe" or "characters", made from the training text; "gpt2"; or the path of a tokenizer or a model."""
    vocab_size: int = 0
    """Entries of a BPE made from the text; 0: what the preset says."""
    validation: float | str = 0.1
    """Share of the text held out to choose the best weights; or a text of its own: a file, a folder or a corpus."""
    test: float = 0.0
    """Share of the text held out and never looked at in training."""
    split_by: Literal["auto", "characters", "documents"] = "auto"
    """Hold out the end of the text, or whole documents; auto: documents when there are enough of them."""
    field: str = "text"
    """The field or column that holds the text, in .json, .jsonl, .csv, .tsv and .parquet files."""
    document_separator: str = ""
    """A text that parts files into documents, such as "<|endoftext|>"; empty: a file is one document."""
    normalisation: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation of the text."""
    invalid: Literal["error", "replace"] = "error"
    """What to do with bytes that are not UTF-8."""

    # batches
    batches: Literal["random", "sliding", "documents"] = "random"
    """Random windows; windows in order of epochs, `stride` apart; or one short document a row, padded."""
    batch_size: int = 16
    """Rows of context_length tokens that go through the model at once."""
    stride: int = 0
    """Tokens from one sliding window to the next; 0: the context length, so that windows do not overlap."""
    accumulation: int = 1
    """Batches whose gradients are added up before each step."""

    # optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all, or Muon for the hidden matrices and AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.0
    """Peak learning rate of Muon, scaled to match AdamW's updates; 0: the same as learning_rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's average of gradients."""
    beta2: float = 0.95
    """AdamW's average of squared gradients."""
    clip: float = 1.0
    """Largest norm of the gradient of a step; 0: no clipping."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """The learning rate after the warmup; wsd: constant, then linear over the last decay share."""
    warmup: float = 0.02
    """Linear warmup: a number of steps, or a share of the run when below 1."""
    decay: float = 0.2
    """With wsd, the share of the run in which the learning rate falls."""
    final_learning_rate: float = 0.1
    """Where the schedule ends, as a share of the peak."""

    # length and luck
    steps: int = 0
    """Optimizer steps; 0: as `epochs` says; without either, as many as take about three minutes on this machine."""
    epochs: float = 0.0
    """Passes over the training tokens; 0: as `steps` says."""
    seed: int = 1
    """First weights, order of the batches and dropout."""

    # mixture of experts
    balance: Literal["bias", "auxiliary", "none"] = "bias"
    """How the load of experts is kept even: a bias in the router (no gradient), an auxiliary loss, or not at all."""
    balance_rate: float = 0.03
    """Step of the bias on a logit, or weight of the auxiliary loss."""

    # when something goes wrong
    non_finite: Literal["stop", "skip", "back"] = "stop"
    """A loss or gradient that is no number: stop; leave its batches out; or go back to the last checkpoint and then
    leave them out. The weights are never updated with it."""
    spikes: Literal["log", "back", "stop"] = "log"
    """A loss far above those before it: say so; go back to the last checkpoint and leave its batches out; or stop."""

    # what is looked at on the way
    evaluate_every: int = 0
    """Steps between two looks at the losses; 0: 20 looks in a run."""
    evaluate_batches: int = 8
    """Batches of each evaluation, for training and for validation, each with the rows of a step (batch_size x
    accumulation); 0: the whole validation text."""
    sample_every: int = 0
    """Steps between two samples of text; 0: after each epoch, or 5 times in a run without epochs."""
    sample_prompt: str = ""
    """What samples begin with; empty: the first words of the validation text."""
    sample_tokens: int = 50
    """Length of a sample."""
    sample_temperature: float = 0.8
    """Temperature of samples; 0: always the likeliest token."""
    save_every: int = 0
    """Steps between two checkpoints; 0: at each look at the losses."""
    keep: int = 2
    """Checkpoints that are kept; should the newest be damaged, a run goes on from the one before."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too (pip install luthier[tensorboard])."""

    # the machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, then mps, then cpu."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; weights and optimizer stay in float32."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the blocks; auto: when the run is long enough to win the time back, timed on its first steps."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    activation_checkpointing: bool = False
    """Keep only the input of each block, and compute the rest again in the backward pass: much less memory, slower."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes (torchrun): a whole model in each, or a part; auto: parts if a whole one does not fit."""

    def __post_init__(self) -> None:
        above_zero = ("batch_size", "accumulation", "learning_rate", "sample_tokens", "keep")
        for name in above_zero:
            check(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        not_negative = (
            "vocab_size stride muon_learning_rate weight_decay clip warmup steps epochs balance_rate evaluate_every "
            "evaluate_batches sample_every sample_temperature save_every threads final_learning_rate"
        )
        for name in not_negative.split():
            check(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("beta1", "beta2", "validation", "test"):
            if isinstance(getattr(self, name), str):
                continue
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        check(0 < self.decay <= 1, "decay", self.decay, "must be above 0 and at most 1")
        check(self.final_learning_rate <= 1, "final_learning_rate", self.final_learning_rate, "must be at most 1")
        share = self.test + (0 if isinstance(self.validation, str) else self.validation)
        check(share < 1, "validation + test", share, "must leave something to train on: below 1")
        if self.steps and self.epochs:
            raise UsageError(f"steps {self.steps} and epochs {self.epochs:g} both end the run: give one of the two")


def check(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise a UsageError that names the setting, its value and the rule."""
    if not holds:
        raise UsageError(f"{name} is {value}: it {rule}")
