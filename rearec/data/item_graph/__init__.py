"""Weighted item-to-item graphs: which item tends to follow which in training, and what that says of histories."""

from rearec.data.item_graph.graph import ItemGraph
from rearec.data.item_graph.options import GraphOptions
from rearec.data.item_graph.scores import RowScores

__all__ = ["GraphOptions", "ItemGraph", "RowScores"]
