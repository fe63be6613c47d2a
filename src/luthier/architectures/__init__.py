"""One file a family: its Config, its published sizes, its builder and its name tables."""
