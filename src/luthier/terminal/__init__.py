"""The only place that prints: escaping, encodings, tables, progress, streams that may close."""
