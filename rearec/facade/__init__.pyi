from .device import device_of
from .fitted import FittedModel, load
from .fitting import fit, refit

__all__ = [
    "FittedModel",
    "device_of",
    "fit",
    "load",
    "refit",
]
