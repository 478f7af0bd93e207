from .data.storage import load_dataset
from .errors import UserError
from .facade.fit import fit
from .facade.fitted import FittedModel, load
from .inference import Recommendation, Recommender
from .models.config import ReaRecConfig
from .reasoning import ReaRec
from .training import TrainingOptions

__version__: str

__all__ = [
    "FittedModel",
    "ReaRec",
    "ReaRecConfig",
    "Recommendation",
    "Recommender",
    "TrainingOptions",
    "UserError",
    "__version__",
    "fit",
    "load",
    "load_dataset",
]
