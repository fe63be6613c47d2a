"""The compiled decoder: all layers in one C++ call, where the processor and a compiler allow it.

It computes what the parts of `model/` compute, beside them: nothing there knows of it, and without it all goes on.
"""
