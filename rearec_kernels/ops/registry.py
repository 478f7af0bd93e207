"""How an op is declared: its schema, its fake kernel, its autograd formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rearec_kernels.dispatch import implementation

_LIBRARY = torch.library.Library("rearec", "DEF")


def define(name: str, schema: str, fake: Callable[..., Any], run: Callable[..., Any] | None = None) -> None:
    """Declares rearec::name. Without `run`, the function `name` of the module of the chosen backend computes it."""
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))

    def run_backend(*args: Any) -> Any:
        *arguments, backend = args
        return implementation(backend, name)(*arguments)

    _LIBRARY.impl(name, run or run_backend, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rearec::{name}", fake, lib=_LIBRARY)


def autograd(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Gives rearec::name its derivative, as torch.library.register_autograd takes it."""
    torch.library.register_autograd(f"rearec::{name}", backward, setup_context=setup_context, lib=_LIBRARY)


def differentiable_once(name: str, what: str) -> None:
    """Makes differentiating the backward op `name` an error instead of a silently missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{what} can be differentiated once: its backward pass has no derivative")

    autograd(name, lambda ctx, inputs, output: None, backward)
