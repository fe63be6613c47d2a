"""When a run evaluates, samples and saves."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.training.settings import Settings


@dataclass(frozen=True)
class Intervals:
    """Steps, which may be fractions, between two evaluations, samples and checkpoints. The last step has all three."""

    evaluate: float
    sample: float
    checkpoint: float
    total_steps: int
    steps_per_epoch: float

    @classmethod
    def of(cls, settings: Settings, total_steps: int, steps_per_epoch: float) -> Intervals:
        """Intervals as set; by default 20 evaluations, 5 samples or one an epoch, and checkpoints with evaluations."""
        evaluate = settings.eval_interval or max(1.0, total_steps / 20)
        in_epochs = settings.steps == 0 and settings.epochs > 1
        sample = settings.sample_interval or (steps_per_epoch if in_epochs else total_steps / 5)
        return cls(evaluate, sample, settings.save_interval or evaluate, total_steps, steps_per_epoch)

    def epoch(self, step: int) -> float:
        """Passes over the text after so many steps."""
        return step / self.steps_per_epoch

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate after this step: also when a sample is due, as a sample without its loss says little."""
        return self.reached(self.evaluate, step) or self.sample_due(step)

    def sample_due(self, step: int) -> bool:
        """Whether to generate a sample after this step."""
        return self.reached(self.sample, step)

    def checkpoint_due(self, step: int) -> bool:
        """Whether to save after this step."""
        return self.reached(self.checkpoint, step)

    def reached(self, every: float, step: int) -> bool:
        """Whether this step reaches a multiple of `every`, or is the last one."""
        return step == self.total_steps or (every > 0 and int(step / every) > int((step - 1) / every))
