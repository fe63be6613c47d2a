"""Training: objectives, optimizers, schedules, expert balance, the trainer, callbacks, processes, checkpoints."""
