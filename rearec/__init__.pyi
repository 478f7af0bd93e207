from .data.storage import load_dataset
from .errors import UserError
from .inference import Recommender
from .reasoning import ReaRec

__version__: str

__all__ = [
    "ReaRec",
    "Recommender",
    "UserError",
    "__version__",
    "load_dataset",
]
