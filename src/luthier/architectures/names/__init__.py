"""What each format calls an architecture's weights and settings: a folder a format, a module an architecture.

Each module has `table(config)`, the names of the weights, read both ways; `write_config(config)`, the settings as the
format says them; and `read_config(values)`, the way back, careful because the values come from outside.
"""
