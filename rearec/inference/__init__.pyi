from .answers import Recommendation, SimilarItems
from .explanation import Explanation, Influence, Step
from .recommender import Recommender

__all__ = [
    "Explanation",
    "Influence",
    "Recommendation",
    "Recommender",
    "SimilarItems",
    "Step",
]
