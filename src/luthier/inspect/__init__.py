"""Inspection of models: recording, ablation, the logit lens, comparison of two models, the HTML page.

from luthier.inspect import ablate, record, replace
"""

from luthier.inspect.interventions import ablate, replace
from luthier.inspect.recording import Layer, Recording, Routing, record

__all__ = ["Layer", "Recording", "Routing", "ablate", "record", "replace"]
