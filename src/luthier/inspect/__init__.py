"""Inspection of models: recording, ablation, the logit lens, comparison of two models, the HTML page.

from luthier.inspect import ablate, record, replace, show
"""

from luthier.inspect.interventions import ablate, replace
from luthier.inspect.recording import Layer, Recording, Routing, record
from luthier.inspect.show import Page, show

__all__ = ["Layer", "Page", "Recording", "Routing", "ablate", "record", "replace", "show"]
