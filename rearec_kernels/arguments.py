"""Checks of arguments: whether they are what a call needs, and the errors that say why not."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rearec_kernels.environment import is_on


def describe(x: object) -> str:
    """What was got, for an error message: dtype and shape of a tensor, else the type."""
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def checks_values(device: torch.device) -> bool:
    """Whether an op looks at tensor values: always on a CPU, elsewhere only under REAREC_DEBUG=1 (it synchronises)."""
    return device.type == "cpu" or is_on("REAREC_DEBUG")


def refuse_tangents(op: str, tensors: Iterable[Tensor]) -> None:
    """Raises NotImplementedError if a tensor has a tangent (forward-mode AD), which no op here would carry on."""
    level = forward_ad._current_level
    if level >= 0 and any(forward_ad.unpack_dual(x, level=level).tangent is not None for x in tensors):
        raise NotImplementedError(
            f"{op}: has no forward-mode derivative (torch.func.jvp, jacfwd, linearize, forward_ad); use reverse mode"
        )


def as_number(op: str, name: str, x: object) -> float:
    """x as a Python number; a NumPy scalar is a number too, a bool is not.

    Raises:
        TypeError: it is not a number.
    """
    if isinstance(x, int | float) and not isinstance(x, bool):
        return x
    if isinstance(x, numbers.Real) and not isinstance(x, bool):
        return float(x)
    raise TypeError(f"{op}: {name} must be a number, got {describe(x)}")


def as_int(op: str, name: str, x: object, least: int | None = None) -> int:
    """x as a Python int of at least `least`; a NumPy integer is an int too, a bool is not.

    Raises:
        TypeError: it is not an int; ValueError: it is too small, or does not fit into 64 bits.
    """
    if not isinstance(x, int | numbers.Integral) or isinstance(x, bool):
        raise TypeError(f"{op}: {name} must be an int, got {describe(x)}")
    number = x if isinstance(x, int) else int(x)
    if least is not None and number < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {number}")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{op}: {name} must fit into a signed 64-bit integer, got {number}")
    return number


def check_floating(op: str, name: str, x: Tensor, shape: str) -> None:
    """Raises unless x is a floating-point tensor with as many dimensions as `shape`, e.g. "[R, T, d]", names."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{op}: {name} must be a floating-point tensor {shape}, got {describe(x)}")
    if x.dim() != shape.count(",") + 1:
        raise ValueError(f"{op}: {name} must have shape {shape}, got {list(x.shape)}")


def check_index(op: str, name: str, x: Tensor, rows: int) -> None:
    """Raises unless x is an integer tensor with one entry per row."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} must be an int32 or int64 tensor [R], got {describe(x)}")
    if x.shape != (rows,):
        raise ValueError(f"{op}: {name} must have shape [R] with R = {rows}, got {list(x.shape)}")


def check_same_device(op: str, tensors: dict[str, Tensor]) -> None:
    """Raises unless all are on the device of the first."""
    first, *others = tensors
    for name in others:
        if tensors[name].device != tensors[first].device:
            raise ValueError(f"{op}: {name} is on {tensors[name].device}, {first} on {tensors[first].device}")


def check_catalog(op: str, hidden: Tensor, weight: Tensor) -> None:
    """Raises unless these are the states and the table of a loss over a catalogue."""
    check_floating(op, "hidden", hidden, "[R, T, d]")
    check_floating(op, "weight", weight, "[N, d]")
    if weight.shape[1] != hidden.shape[2] or weight.shape[0] == 0:
        raise ValueError(
            f"{op}: weight must have shape [N, d] with N > 0 and hidden's d = {hidden.shape[2]}, "
            f"got {list(weight.shape)}"
        )
    if hidden.shape[1] == 0 or hidden.shape[2] == 0:
        raise ValueError(f"{op}: hidden must have at least one state per row and d > 0, got {list(hidden.shape)}")
    check_same_device(op, {"hidden": hidden, "weight": weight})


def check_target(op: str, target: Tensor, ignore_index: int, hidden: Tensor) -> int:
    """Raises unless these are the targets of the states hidden; returns the ignore_index as Python's int."""
    check_index(op, "target", target, hidden.shape[0])
    check_same_device(op, {"hidden": hidden, "target": target})
    return as_int(op, "ignore_index", ignore_index)


def host_values(op: str, name: str, values: float | Sequence[float] | Tensor, steps: int) -> Tensor:
    """One float64 per step, on the CPU. Values are looked at by the op, which also runs under torch.compile."""
    if isinstance(values, Tensor):
        if values.requires_grad:
            raise ValueError(f"{op}: {name} is not differentiated, got a tensor that requires a gradient; detach it")
        if values.device.type != "cpu":
            raise ValueError(f"{op}: {name} must be on the CPU (its values steer the kernels), got {values.device}")
        given = values.to(torch.float64, copy=True)
    else:
        try:
            given = torch.tensor(values, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{op}: {name} must be a number or a sequence of numbers, got {values!r}") from error
    if given.dim() > 1 or (given.dim() == 1 and given.shape[0] != steps):
        raise ValueError(
            f"{op}: {name} must be a number or one per step, T = {steps} of hidden, got shape {list(given.shape)}"
        )
    return given.expand(steps).contiguous()


def check_soft_target(op: str, soft_target: tuple[Tensor, Tensor] | None, hidden: Tensor) -> None:
    """Raises unless it is None or items [R, M] and their mass, [R, M] or [R, T, M], for the states hidden."""
    if soft_target is None:
        return
    if not isinstance(soft_target, tuple) or len(soft_target) != 2:
        raise TypeError(f"{op}: soft_target must be a pair of tensors (items, mass), got {describe(soft_target)}")
    items, mass = soft_target
    if not isinstance(items, Tensor) or items.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"{op}: the items of soft_target must be an int32 or int64 tensor [R, M], got {describe(items)}"
        )
    if not isinstance(mass, Tensor) or not mass.is_floating_point():
        raise TypeError(
            f"{op}: the mass of soft_target must be a floating-point tensor [R, M] or [R, T, M], got {describe(mass)}"
        )
    rows, steps, _ = hidden.shape
    if items.dim() != 2 or items.shape[0] != rows:
        raise ValueError(
            f"{op}: the items of soft_target must have shape [R, M] with R = {rows}, got {list(items.shape)}"
        )
    places = items.shape[1]
    if mass.shape not in ((rows, places), (rows, steps, places)):
        raise ValueError(
            f"{op}: the mass of soft_target must have shape [R, M] = {[rows, places]} or [R, T, M] = "
            f"{[rows, steps, places]}, got {list(mass.shape)}"
        )
    if mass.requires_grad:
        raise ValueError(
            f"{op}: the mass of soft_target is not differentiated, got a tensor that requires a gradient; detach it"
        )
    check_same_device(op, {"hidden": hidden, "the items of soft_target": items, "the mass of soft_target": mass})


def check_values(op: str, name: str, x: Tensor, least: float | None = None, counted: Tensor | None = None) -> None:
    """Raises ValueError unless every number is finite and at least `least`, where values are looked at.

    Args:
        counted: bool, of x's shape: the others may be anything.
    """
    if not checks_values(x.device):
        return
    wrong = ~x.isfinite() if least is None else ~(x.isfinite() & (x >= least))
    if counted is not None:
        wrong &= counted
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        allowed = "finite" if least is None else f"finite and at least {least:g}"
        raise ValueError(f"{op}: {name} must be {allowed}, got {float(x[tuple(place)])} at {place}")


def check_items(op: str, name: str, items: Tensor, count: int, ignore_index: int | None = None) -> None:
    """Raises IndexError unless every item is in [0, count) or `ignore_index`, where values are looked at."""
    if not checks_values(items.device):
        return
    wrong = (items < 0) | (items >= count)
    if ignore_index is not None:
        wrong &= items != ignore_index
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        allowed = "" if ignore_index is None else f" or {ignore_index} (ignored)"
        raise IndexError(
            f"{op}: {name}{place} is {int(items[tuple(place)])}, expected an item in [0, {count}){allowed}"
        )


def check_offsets(op: str, offsets: Tensor | None, items: Tensor) -> None:
    """Raises ValueError unless `offsets` delimits consecutive parts of `items`, where values are looked at."""
    if offsets is None or not checks_values(offsets.device):
        return
    if int(offsets[0]) != 0 or int(offsets[-1]) != items.shape[0] or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"{op}: the offsets of exclude must rise from 0 to its number of items {items.shape[0]}, got "
            f"{int(offsets[0])} .. {int(offsets[-1])}{' with a decrease' if bool((offsets.diff() < 0).any()) else ''}"
        )


def check_prefix(op: str, k: Tensor, v: Tensor) -> None:
    """Raises unless k and v are a prefix's K and V: [S, C, Hkv, D], any outer strides, the last dimension dense."""
    for name, x in (("k", k), ("v", v)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{op}: {name} must be a floating-point tensor, got {describe(x)}")
        shape = x.shape
        if len(shape) != 4:
            raise ValueError(f"{op}: {name} must have shape [S, C, Hkv, D], got {list(shape)}")
        if shape[3] == 0 or shape[2] == 0:
            raise ValueError(f"{op}: {name} needs at least one head of width 1, got {list(shape)}")
        if x.stride(3) != 1 and shape[3] != 1:
            raise ValueError(f"{op}: the last dimension of {name} must be dense, strides {x.stride()}")
    if k.shape != v.shape or k.dtype != v.dtype or k.device != v.device:
        raise ValueError(f"{op}: k and v must agree, got {describe(k)} on {k.device} and {describe(v)} on {v.device}")
