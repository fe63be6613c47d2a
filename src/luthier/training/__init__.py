"""Training: settings, optimizers, schedules, expert balance, the loop, several processes, checkpoints."""
