from .fitting import fitting_config
from .loop import train
from .module import TrainingModule
from .options import TrainingOptions

__all__ = [
    "TrainingModule",
    "TrainingOptions",
    "fitting_config",
    "train",
]
