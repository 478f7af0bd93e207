from .app import make_app
from .batching import Batcher
from .models import ServedModels
from .options import ServeOptions
from .server import serve

__all__ = [
    "Batcher",
    "ServeOptions",
    "ServedModels",
    "make_app",
    "serve",
]
