from .advice import advice
from .fit_prior import fit_prior
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
    "fit_prior",
    "fitting_config",
    "refit",
    "settings_for",
    "train",
]
