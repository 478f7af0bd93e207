from .loop import fitting_config, train
from .module import TrainingModule
from .options import TrainingOptions

__all__ = [
    "TrainingModule",
    "TrainingOptions",
    "fitting_config",
    "train",
]
