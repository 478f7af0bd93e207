from .engine import Engine
from .growing import GrowingHistory

__all__ = ["Engine", "GrowingHistory"]
