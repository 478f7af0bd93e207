"""Devices by the names that users give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rearec.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["device_of"]


def device_of(name: str | torch.device | None = None, called: str = "device") -> torch.device:
    """The torch device of a name: "cpu", "cuda", "cuda:N"; "auto" and None are a GPU where there is one, else the CPU.

    called: what the error calls it.

    Raises:
        UserError: there is no such device here.

    Examples:
        >>> from rearec.facade import device_of
        >>> device_of("cpu")
        device(type='cpu')
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{called}: got {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{called}: got {str(name)!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{called}: {name} is not usable, {torch.cuda.device_count()} CUDA devices found")
    return device
