"""Look inside a model: record what happens as it reads, change it, and show it as a page.

from luthier.inspect import ablate, record, replace
"""

from luthier.inspect.recording import Layer, Recording, Routing, record
from luthier.inspect.surgery import ablate, replace

__all__ = ["Layer", "Recording", "Routing", "ablate", "record", "replace"]
