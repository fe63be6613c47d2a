"""Everything between a batch and a better model: optimizers, schedule, loop, metrics, checkpoints."""
