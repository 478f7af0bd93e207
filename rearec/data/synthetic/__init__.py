"""Generated data: a set in which depth pays, one shaped like the paper's, and the events of a small shop."""

from rearec.data.synthetic.planted import Planted, generate, paper_shaped, planted_theme

__all__ = ["Planted", "generate", "paper_shaped", "planted_theme"]
