"""Triton's interpreter as the tests run it: it stops where it would be silently wrong, and does nothing twice.

Numbers of type bfloat16 are kept as their bit patterns there. Loads, stores and casts know that; products, other
arithmetic and reductions of some releases do not, and return nonsense without an error. Kernels have to cast first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter

_ARITHMETIC = (
    "add", "sub", "mul", "div", "rem", "neg", "ma", "abs", "cmp", "max", "min",
)  # fmt: skip
_FUNCTIONS = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "erf", "floor", "ceil", "dot", "clampf")


def prepare() -> None:
    """All of it, once in a process."""
    guard_bfloat16()
    multiply_evenly()
    patch_once_per_launch()
    remember_types()


def guard_bfloat16() -> None:
    """Arithmetic on bfloat16 raises TypeError from now on."""
    builder = interpreter.InterpreterBuilder
    names = [f"create_{name}" for name in _FUNCTIONS]
    names += [name for name in dir(builder) if name.startswith(tuple(f"create_f{kind}" for kind in _ARITHMETIC))]
    names += ["create_precise_divf", "create_precise_sqrt", "create_approx_divf", "create_maximumf", "create_minimumf"]
    names += ["create_maxnumf", "create_minnumf"]
    for name in filter(lambda name: hasattr(builder, name), names):
        setattr(builder, name, _refusing(name, getattr(builder, name)))
    operations = interpreter.ReduceScanOpInterface
    check = operations.check_tensor

    def check_tensor(self: Any, inputs: Any) -> Any:
        if any(isinstance(x, tl.tensor) and x.dtype.scalar == tl.bfloat16 for x in inputs):
            raise TypeError("a reduction of bfloat16 in Triton's interpreter; cast to tl.float32 first")
        return check(self, inputs)

    operations.check_tensor = check_tensor


def _refusing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: Any, *arguments: Any, **options: Any) -> Any:
        for x in arguments:
            if isinstance(x, interpreter.TensorHandle) and x.dtype.scalar == tl.bfloat16:
                raise TypeError(f"{name} on bfloat16 in Triton's interpreter; cast to tl.float32 first")
        return function(self, *arguments, **options)

    return guarded


def multiply_evenly() -> None:
    """Products of float32 are rounded once from now on.

    NumPy's own depend on the shape of the tile and the place in it on some processors, so that a probability that is
    computed again differs from the first one; those of a GPU do not.
    """
    create_dot = interpreter.InterpreterBuilder.create_dot

    def create_even_dot(self: Any, a: Any, b: Any, d: Any, *options: Any, **named: Any) -> Any:
        if d.data.dtype != np.float32 or a.data.dtype != np.float32 or b.data.dtype != np.float32:
            return create_dot(self, a, b, d, *options, **named)
        product = np.matmul(a.data, b.data, dtype=np.float64).astype(np.float32)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_even_dot


def patch_once_per_launch() -> None:
    """Functions that a kernel calls find Triton's language patched: doing it again is most of what they cost."""
    patch = interpreter._patch_lang
    patched: set[frozenset[str]] = set()  # the modules that the current launch has patched, as one function saw them

    class Nothing:
        def restore(self) -> None:
            pass

    def patch_new(function: Any) -> Any:
        seen = frozenset(x.__name__ for x in function.__globals__.values() if x is tl or x is tl.core)
        if seen in patched:
            return Nothing()
        outermost = not patched
        patched.add(seen)
        scope = patch(function)
        if outermost:
            restore = scope.restore

            def restore_all() -> None:
                patched.clear()
                restore()

            scope.restore = restore_all
        return scope

    interpreter._patch_lang = patch_new


def remember_types() -> None:
    """What follows from the shape and the dtype of a value is worked out once for each of them, not for every value:
    it is a third of what a kernel takes."""
    find_numpy_dtype = interpreter._get_np_dtype
    numpy_dtypes: dict[str, np.dtype[Any]] = {}

    def get_numpy_dtype(kind: Any) -> np.dtype[Any]:
        scalar = kind.scalar
        if scalar.name not in numpy_dtypes:
            numpy_dtypes[scalar.name] = find_numpy_dtype(scalar)
        return numpy_dtypes[scalar.name]

    make_block_type = tl.block_type.__init__
    block_types: dict[tuple[Any, ...], dict[str, Any]] = {}

    def init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(size.value if isinstance(size, tl.constexpr) else size for size in shape))
        known = block_types.get(key)
        if known is None or not all(type(size) is int for size in key[1:]):
            make_block_type(self, element_ty, shape)
            block_types[key] = {name: value for name, value in vars(self).items() if name != "element_ty"}
        else:
            vars(self).update(known, element_ty=element_ty)

    make_tensor = tl.tensor.__init__
    tensors: dict[str, dict[str, Any]] = {}

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        known = tensors.get(type.name)
        if known is None:
            make_tensor(self, handle, type)
            own = ("handle", "type", "dtype")
            tensors[type.name] = {name: value for name, value in vars(self).items() if name not in own}
        else:
            vars(self).update(known, handle=handle, type=type, dtype=type.scalar)

    interpreter._get_np_dtype = get_numpy_dtype
    tl.block_type.__init__ = init_block_type
    tl.tensor.__init__ = init_tensor
