"""The command line: one small module a verb, imported when it is called; it may import every other room."""
