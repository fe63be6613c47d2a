"""The compiled decoder: all layers in one C++ call, where the processor and a compiler support it.

An optional fast path that computes the same as the modules of `model/`, which do not depend on it.
"""
