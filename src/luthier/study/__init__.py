"""Ablation studies of architectures: variants of one model, trained alike and compared over seeds."""
