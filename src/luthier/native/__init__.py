"""One step of a decoder in C++, for processors that have the instructions and machines that have a compiler.

It computes what the parts of `model/` compute, beside them: nothing there knows of it, and without it all goes on.
"""
