from .answers import Item, Recommendation, SimilarItems
from .explanation import Explanation, Influence, Step
from .questions import Question
from .recommender import Recommender
from .session import Session

__all__ = [
    "Explanation",
    "Influence",
    "Item",
    "Question",
    "Recommendation",
    "Recommender",
    "Session",
    "SimilarItems",
    "Step",
]
