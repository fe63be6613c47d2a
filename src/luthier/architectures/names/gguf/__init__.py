"""Names in GGUF files, as llama.cpp has them.

`read_config(values, checkpoint)` looks at the tensors too: whether there is an output matrix, and how rotary positions
are stretched, is said by them alone. What no key of llama.cpp's says is written with keys of our own, "luthier.NAME":
other readers pass over them.
"""
