"""The only place that prints: harmless characters, any encoding, and streams that may go away."""
