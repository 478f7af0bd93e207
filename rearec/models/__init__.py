"""Backbones: the Transformer encoder, the models that embed items for it, and their configuration.

Importing this package does not import torch, so that the command line can show defaults at once; the modules do.
"""

from __future__ import annotations

from rearec.models.config import ReaRecConfig

__all__ = ["ReaRecConfig"]
