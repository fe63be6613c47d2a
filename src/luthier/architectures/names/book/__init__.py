"""Names in what "Build a Large Language Model (From Scratch)" saves."""
