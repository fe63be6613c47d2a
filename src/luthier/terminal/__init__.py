"""The only place that prints: harmless characters, any encoding, tables, progress, streams that may go away."""
