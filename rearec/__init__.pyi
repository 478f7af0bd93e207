from .data.preparation.in_memory import Dataset
from .data.preparation.prepare import prepare
from .data.storage import load_dataset
from .errors import UserError
from .evaluation.measures import evaluate
from .experiments.compare import compare
from .facade.fitted import FittedModel, load
from .facade.fitting import fit, refit
from .inference import Recommendation, Recommender, Session
from .models.config import ReaRecConfig
from .reasoning import ReaRec
from .training.loop import train
from .training.options import TrainingOptions

__version__: str

__all__ = [
    "Dataset",
    "FittedModel",
    "ReaRec",
    "ReaRecConfig",
    "Recommendation",
    "Recommender",
    "Session",
    "TrainingOptions",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "fit",
    "load",
    "load_dataset",
    "prepare",
    "refit",
    "train",
]
