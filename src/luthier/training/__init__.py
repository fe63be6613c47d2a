"""Training: optimizers, schedules, the training loop, distributed training, checkpoints."""
