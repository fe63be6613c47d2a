"""Inspection of models: record activations, intervene on them, and show them as an HTML page.

from luthier.inspect import ablate, record, replace
"""

from luthier.inspect.recording import Layer, Recording, Routing, record
from luthier.inspect.surgery import ablate, replace

__all__ = ["Layer", "Recording", "Routing", "ablate", "record", "replace"]
