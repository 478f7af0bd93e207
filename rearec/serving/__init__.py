"""Answers over HTTP: `rearec serve` and what it is made of. Needs the extra ``serve``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
