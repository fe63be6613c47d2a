"""The structures that Python fills and C++ reads are compared field by field, so that neither can change alone."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from luthier.native import build, layout


def test_the_library_has_the_structures_of_python():
    try:
        compiled = build.library()
    except build.Unavailable as reason:
        if "Python has" in str(reason):
            raise
        pytest.skip(str(reason))
    compiled.layout.restype = ctypes.c_char_p
    assert compiled.layout().decode() == layout.layout_text()


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("Q4_0 2", "Q4_0 3"),  # a constant
        ("Matrix.bias 32 8", "Matrix.bias 40 8"),  # fields that changed places
        ("Norm.eps 16 4", "Norm.eps 16 8"),  # a wider field
        ("Row.needs_logits 32 8", "Row.needed 32 8"),  # a name
        ("Layer.scale", None),  # a field that the library does not have
    ],
)
def test_a_library_that_differs_anywhere_is_not_used_and_the_place_is_named(line, other):
    lines = layout.layout_text().splitlines()
    place = next(i for i, found in enumerate(lines) if found.startswith(line))
    lines[place : place + 1] = [] if other is None else [other]

    class Description:
        restype = None

        def __call__(self):
            return "\n".join(lines).encode()

    compiled = SimpleNamespace(layout=Description(), step=SimpleNamespace())
    with pytest.raises(build.Unavailable, match=line if other is None else f"'{other}' where Python has '{line}'"):
        build.checked(compiled)
