from .device import device_of
from .fit import fit
from .fitted import FittedModel, load

__all__ = [
    "FittedModel",
    "device_of",
    "fit",
    "load",
]
