from .advice import advice
from .fitting import differing, fitting_config, settings_for
from .loop import train
from .module import TrainingModule
from .options import TrainingOptions
from .refit import refit

__all__ = [
    "TrainingModule",
    "TrainingOptions",
    "advice",
    "differing",
    "fitting_config",
    "refit",
    "settings_for",
    "train",
]
