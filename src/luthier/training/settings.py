"""Settings of a training run, in one flat table.

The fields are the keys of the TOML file and the options of `luthier train`; their docstrings are its help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from luthier.errors import UsageError, setting

MOST_THREADS = 4096  # OpenMP ends the process where it cannot start as many as it is told to


@dataclass(frozen=True)
class Settings:
    """Settings of a training run."""

    # model and data
    preset: str = "llama-nano"
    """Model preset: gpt2-124m, llama-micro, llama4-nano, ..."""
    from_model: str = ""
    """Continued pretraining: begin with the weights, the tokenizer and the shape of this model, anything that opens."""
    tokenizer: str = "bpe"
    """Tokenizer: "bpe" or "characters", trained on the text; "gpt2"; or the path of a tokenizer or a model."""
    vocab_size: int = 0
    """Vocabulary size of a BPE trained on the text; 0: the preset's."""
    validation: float | str = 0.1
    """Fraction of the text held out to select the best weights; or a separate text: a file, a folder or a corpus."""
    test: float = 0.0
    """Fraction of the text held out as a test set, not used in training."""
    split_by: Literal["auto", "characters", "documents"] = "auto"
    """Split off the end of the text, or random documents; auto: documents when there are enough of them."""
    field: str = "text"
    """Field or column that holds the text, in .json, .jsonl, .csv, .tsv and .parquet files."""
    document_separator: str = ""
    """String that separates documents within a file, such as "<|endoftext|>"; empty: a file is one document."""
    normalization: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalization form of the text."""
    invalid: Literal["error", "replace"] = "error"
    """Bytes that are not UTF-8: stop with an error, or replace them by U+FFFD."""

    # batches
    batches: Literal["random", "sliding", "documents"] = "random"
    """random: randomly placed windows; sliding: epochs of windows `stride` apart; documents: one per row, padded."""
    batch_size: int = 16
    """Sequences of context_length tokens per batch."""
    stride: int = 0
    """Tokens from one sliding window to the next; 0: the context length, so that windows do not overlap."""
    gradient_accumulation_steps: int = 1
    """Gradient accumulation: batches per optimizer step."""

    # optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW. Continued pretraining (from_model) takes 1e-4 unless it is given."""
    muon_learning_rate: float = 0.0
    """Peak learning rate of Muon, scaled to match AdamW's updates; 0: the same as learning_rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's decay rate of the average of gradients."""
    beta2: float = 0.95
    """AdamW's decay rate of the average of squared gradients."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm; 0: no clipping."""
    schedule: Literal["constant", "cosine", "linear", "wsd", "continue"] = "cosine"
    """Learning-rate schedule after the warmup; wsd: constant, then linear decay over the last part (see decay);
    continue: when a run is resumed, linear decay from its current learning rate to the end.
    """
    warmup: float = 0.02
    """Linear warmup: number of steps, or fraction of the run if below 1."""
    decay: float = 0.2
    """Fraction of the run in which the learning rate decays, with wsd."""
    final_lr_fraction: float = 0.1
    """Final learning rate, as a fraction of the peak."""

    # duration and seed
    steps: int = 0
    """Optimizer steps; 0: set by `epochs`; without either, as many as take about three minutes on this machine."""
    epochs: float = 0.0
    """Passes over the training tokens; 0: set by `steps`."""
    seed: int = 1
    """Random seed of initialization, batch order and dropout."""

    # mixture of experts
    balance: Literal["bias", "auxiliary", "none"] = "bias"
    """Load balancing of experts: a bias in the router (no gradient), an auxiliary loss, or none."""
    balance_rate: float = 0.03
    """Step size of the bias on a logit, or weight of the auxiliary loss."""

    # recovery
    non_finite: Literal["stop", "skip", "rewind"] = "stop"
    """On a NaN or infinite loss or gradient: stop; skip its batches; or go back to the last checkpoint and skip them.
    The weights are never updated with it.
    """
    spikes: Literal["log", "rewind", "stop"] = "log"
    """On a loss spike: log it; go back to the last checkpoint and skip its batches; or stop."""

    # evaluation, samples and checkpoints
    eval_interval: int = 0
    """Evaluation interval in steps; 0: 20 evaluations per run."""
    eval_batches: int = 8
    """Batches per evaluation, for training and for validation, each with the rows of a step (batch_size x
    gradient_accumulation_steps); 0: the entire validation text.
    """
    sample_interval: int = 0
    """Steps between text samples; 0: after each epoch, or 5 times in a run without epochs."""
    sample_prompt: str = ""
    """Prompt of text samples; empty: the first words of the validation text."""
    sample_tokens: int = 50
    """Length of a sample in tokens."""
    sample_temperature: float = 0.8
    """Temperature of samples; 0: greedy decoding."""
    save_interval: int = 0
    """Steps between checkpoints; 0: at each evaluation."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep; if the newest is damaged, a run resumes from the one before."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (pip install luthier[tensorboard])."""

    # machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device; auto: cuda, then mps, then cpu."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the matrix products; weights and optimizer state stay in float32."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the blocks; auto: if the run is long enough to save time, measured before its first step."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    activation_checkpointing: bool = False
    """Store only the input of each block and recompute the rest in the backward pass: much less memory, but slower."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes (torchrun): a replica of the model in each, or a shard; auto: shard if a replica does not
    fit.
    """

    def __post_init__(self) -> None:
        above_zero = ("batch_size", "gradient_accumulation_steps", "learning_rate", "sample_tokens", "keep_checkpoints")
        for name in above_zero:
            check(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        not_negative = (
            "vocab_size stride muon_learning_rate weight_decay max_grad_norm warmup steps epochs balance_rate "
            "eval_interval eval_batches sample_interval sample_temperature save_interval threads final_lr_fraction"
        )
        for name in not_negative.split():
            check(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("beta1", "beta2", "validation", "test"):
            if isinstance(getattr(self, name), str):
                continue
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        for name, most in (
            ("learning_rate", math.inf),
            ("epochs", math.inf),
            ("seed", 2**62),
            ("threads", MOST_THREADS),
        ):
            check(getattr(self, name) < most, name, getattr(self, name), f"must be below {most:,}")
        check(self.seed >= 0, "seed", self.seed, "must not be negative")
        check(0 < self.decay <= 1, "decay", self.decay, "must be above 0 and at most 1")
        check(self.final_lr_fraction <= 1, "final_lr_fraction", self.final_lr_fraction, "must be at most 1")
        share = self.test + (0 if isinstance(self.validation, str) else self.validation)
        check(share < 1, "validation + test", share, "must leave something to train on: below 1")
        if self.steps and self.epochs:
            raise UsageError(
                f"{setting('steps')} {self.steps} and {setting('epochs')} {self.epochs:g} both end the run: "
                "give one of the two"
            )


def check(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise a UsageError that names the setting, its value and the rule."""
    if not holds:
        named = " + ".join(map(setting, name.split(" + ")))
        raise UsageError(f"{named} is {value}: it {rule}")
