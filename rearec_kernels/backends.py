"""The backends: for each, one record that says where it runs and what it serves.

A backend is a package of this one with a function per op it serves (the names of `ops/`). Everything that decides which
one computes a call stands in its record here; `dispatch` reads the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rearec_kernels import native, triton_support
from rearec_kernels.precision import PRECISIONS

# The sizes that a limit may be about, and how an error names one.
SIZES = {"head_dim": "head width {}", "states": "{} states per row", "k": "k = {}"}


@dataclass(frozen=True)
class Serves:
    """What a backend serves of one public call.

    Attributes:
        dtypes: that it computes in; None for all.
        precisions: the values of the argument `precision` that it knows; none for a call without that argument.
        slow_precisions: those in which "reference" is faster, so that this backend has to be asked for.
        limits: the largest value of a size, by its name in `SIZES`.
        stands_in: whether it computes, without a refusal or a warning, what another backend does not serve of this
            call, even where that one was asked for: PyTorch's own kernels are as good.
    """

    dtypes: frozenset[torch.dtype] | None = None
    precisions: tuple[str, ...] = ()
    slow_precisions: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    stands_in: bool = False

    def refusal(self, dtype: torch.dtype, sizes: Mapping[str, int]) -> str | None:
        """What of a call is not served, in the words of an error, or None where all is."""
        if self.dtypes is not None and dtype not in self.dtypes:
            return str(dtype)
        for name, largest in self.limits.items():
            if name in sizes and sizes[name] > largest:
                return f"{SIZES[name].format(sizes[name])}, at most {largest}"
        return None


@dataclass(frozen=True, eq=False)
class Backend:
    """One backend.

    Attributes:
        name: of the backend, and of its package in this one.
        devices: types of the devices whose tensors it is chosen for; None for all.
        obstacle: why it cannot run on a device, or None where it can. Where it can although the device is none of
            `devices`, it has to be asked for.
        serves: what it serves, by the name of the public call.
    """

    name: str
    devices: tuple[str, ...] | None
    obstacle: Callable[[torch.device], str | None]
    serves: Mapping[str, Serves]


_registered: dict[str, Backend] = {}  # those for the same device: fastest first


def register(backend: Backend) -> None:
    """Adds a backend, or replaces the one of its name in its place."""
    _registered[backend.name] = backend


def find(name: str, asked_by: str = "backends") -> Backend:
    """The backend of this name.

    Raises:
        ValueError: there is none; `asked_by` is named.
    """
    backend = _registered.get(name)
    if backend is None:
        raise ValueError(f"{asked_by}: unknown backend {name!r}; expected one of {', '.join(_registered)}")
    return backend


def chosen_for(device: torch.device) -> list[Backend]:
    """The backends that are chosen for tensors on `device` where they can run there, fastest first: those made for such
    devices, then "reference", which is made for none in particular and serves everything."""
    made_for_it = [x for x in _registered.values() if x.devices is not None and device.type in x.devices]
    return made_for_it + [x for x in _registered.values() if x.devices is None]


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the backends that can run on `device`, fastest first; "reference" is the last of those that are chosen.

    Under TRITON_INTERPRET=1, "triton" follows for a CPU: its kernels in Triton's interpreter, for who asks for them.

    Examples:
        >>> "reference" in available_backends("cpu")
        True
    """
    device = torch.device(device)
    chosen = chosen_for(device)
    if_asked_for = [x for x in _registered.values() if x not in chosen]
    return tuple(x.name for x in (*chosen, *if_asked_for) if x.obstacle(device) is None)


def precisions_of(op: str) -> tuple[str, ...]:
    """Every `precision` of the public call `op` that some backend serves, "fp32" first."""
    every = (precision for x in _registered.values() if op in x.serves for precision in x.serves[op].precisions)
    return tuple(sorted(set(every), key=list(PRECISIONS).index))


def build_info() -> dict[str, Any]:
    """What this build can do: native module, instruction sets, compiler, OpenMP, limits, CUDA architectures, devices.

    `tiles` names what multiplies tiles of bfloat16 on this CPU: "amx", "avx512_bf16", "neon_bf16" or, in
    float32, "portable".
    `cuda` and `triton` say whether the kernels of these backends can run on a GPU, and why not where they cannot.

    Examples:
        >>> sorted(build_info())  # doctest: +NORMALIZE_WHITESPACE
        ['backends', 'compiler', 'cuda', 'cuda_archs', 'isa', 'isas', 'limits', 'native', 'openmp', 'tiles',
         'triton']
    """
    info: dict[str, Any] = {"native": native.C is not None, "compiler": None, "isas": [], "isa": None, "openmp": False}
    info |= {"tiles": "none", "limits": {}}
    if native.C is not None:
        info.update(native.C.build_info())
    info["cuda_archs"] = list(native.CUDA_ARCHS)
    gpu = torch.device("cuda")
    info |= {name: find(name).obstacle(gpu) or "usable" for name in ("cuda", "triton")}
    info["backends"] = {"cpu": available_backends("cpu"), "cuda": available_backends("cuda")}
    return info


_LOSSES = ("annealed_cross_entropy", "ensemble_reasoning_loss", "reasoning_info_nce")
_RETRIEVAL = ("catalog_rank", "catalog_topk")
_CPU_DTYPES = frozenset({torch.float32, torch.bfloat16})
_GPU_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


def _cpu_obstacle(device: torch.device) -> str | None:
    if native.C is None:
        return "this install has no native module"
    return None if device.type == "cpu" else "not a cpu device"


register(
    Backend(
        "reference",
        None,
        lambda device: None,
        {
            **dict.fromkeys(_LOSSES, Serves(precisions=("fp32", "bf16", "bf16x3"))),
            **dict.fromkeys(_RETRIEVAL, Serves(precisions=("fp32", "bf16"))),
            "cached_reason_attention": Serves(),
            "dropout_add_layer_norm": Serves(stands_in=True),
            "reasoning_rollout": Serves(),
        },
    )
)

_CPU_PRECISIONS = ("fp32", "bf16")
register(
    Backend(
        "cpu",
        ("cpu",),
        _cpu_obstacle,
        {
            **dict.fromkeys(_LOSSES, Serves(_CPU_DTYPES, (*_CPU_PRECISIONS, "bf16x3"))),
            **dict.fromkeys(_RETRIEVAL, Serves(_CPU_DTYPES, _CPU_PRECISIONS)),
            "cached_reason_attention": Serves(_CPU_DTYPES),
            "dropout_add_layer_norm": Serves(frozenset({torch.float32})),
            "reasoning_rollout": Serves(frozenset({torch.float32})),
        },
    )
)
register(
    Backend(
        "cuda",
        ("cuda",),
        native.cuda_obstacle,
        {"cached_reason_attention": Serves(_GPU_DTYPES, limits={"head_dim": getattr(native.CUDA, "MAX_HEAD_DIM", 0)})},
    )
)

_TRITON = Serves(_GPU_DTYPES, ("fp32", "tf32", "bf16"))
# Slower than "reference" in fp32: measured on an H100, where Triton's products of float32 without tensor cores are far
# from what cuBLAS makes of them.
_TRITON_LOSS = replace(_TRITON, slow_precisions=("fp32",))
register(
    Backend(
        "triton",
        ("cuda",),
        triton_support.obstacle,
        {
            "annealed_cross_entropy": _TRITON_LOSS,
            "ensemble_reasoning_loss": replace(_TRITON_LOSS, limits={"states": 8}),  # all of a row are in registers
            "reasoning_info_nce": _TRITON,
            "catalog_rank": _TRITON,
            "catalog_topk": replace(_TRITON, limits={"k": 512}),  # a row's candidates are in registers
            "cached_reason_attention": Serves(_GPU_DTYPES, limits={"head_dim": 1024}),  # a head is in registers
        },
    )
)
