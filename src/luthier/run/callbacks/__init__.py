"""Callbacks of a run: what happens around its steps.

After each step they act in this order:

1. Clock, StepStatistics, ExpertLoads: collect what an evaluation reports.
2. Console, MetricsFile, TensorBoard: show progress; they also receive each evaluation and each sample.
3. Recover: after a spike of the loss, ends the step here or goes back to a checkpoint.
4. Evaluate: measures the losses and keeps the best weights.
5. Sample: generates text.
6. Checkpoint: saves all that resuming needs.
7. BackgroundWriter: writes what 4 and 6 want written while the next step is computed.
"""
