"""The CUDA backend around its kernels: where it can run, what it refuses, the edges of its launches, debug mode."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest
import torch
from attention_problem import Problem, relative_error
from backends import Backend, simulated_cuda
from torch import Tensor

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    annealed_cross_entropy,
    build_info,
    cached_reason_attention,
    native,
    use_backend,
)
from rearec_kernels.cuda import stream
from rearec_kernels.environment import SWITCHES
from rearec_kernels.native import arch_obstacle

# Only the CUDA backend is of interest here.
on_cuda = pytest.mark.parametrize(
    "backend",
    [pytest.param("cuda", marks=pytest.mark.gpu if torch.cuda.is_available() else pytest.mark.cuda_on_cpu)],
    indirect=True,
)


@pytest.mark.parametrize(
    "capability, archs, usable",
    [
        ((8, 0), ("80", "90a", "100"), True),
        ((8, 9), ("80", "90a", "100"), True),  # the same major version
        ((9, 0), ("80", "90a", "100"), True),
        ((10, 3), ("80", "90a", "100"), True),
        ((12, 0), ("80", "90a", "100"), True),  # from PTX
        ((7, 5), ("80", "90a", "100"), False),
        ((9, 0), ("80", "100"), False),  # neither machine code nor older PTX
        ((9, 0), ("80",), True),
        ((8, 0), ("86",), False),
        ((10, 3), ("100a",), True),  # from PTX, not from the machine code
        ((10, 0), ("90a",), True),
    ],
)
def test_which_devices_a_build_serves(capability: tuple[int, int], archs: tuple[str, ...], usable: bool) -> None:
    obstacle = arch_obstacle(capability, archs)
    assert (obstacle is None) == usable
    if not usable:
        major, minor = capability
        assert (
            obstacle == f"the device has compute capability {major}.{minor}, this build kernels for {', '.join(archs)}"
        )


def test_build_info_says_why_cuda_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert build_info()["cuda"] != "usable"
    monkeypatch.setattr(native, "_known_obstacle", native._find_obstacle)  # not what was found before
    monkeypatch.setattr(native, "CUDA", None)
    assert build_info()["cuda"] == "this build has no CUDA kernels"
    monkeypatch.setattr(native, "CUDA", SimpleNamespace())
    monkeypatch.setattr(torch.version, "cuda", None)
    assert build_info()["cuda"] == "torch is a build without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build_info()["cuda"] == "torch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=7, minor=0))
    monkeypatch.setattr(native, "CUDA_ARCHS", ("80",))
    assert "compute capability 7.0" in build_info()["cuda"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=9, minor=0))
    assert build_info()["cuda"] == "usable"
    assert build_info()["backends"]["cuda"][0] == "cuda"


def test_asking_for_cuda_where_it_cannot_run_says_why() -> None:
    k = torch.zeros(2, 3, 1, 8)
    cache = ReasoningCache.from_prefix(k, k, max_tokens=1)
    message = r"backend 'cuda' cannot run on cpu \(not a CUDA device\); available there: "
    with use_backend("cuda"), pytest.raises(ValueError, match=message):
        cached_reason_attention(k[:, 0], k[:, 0], k[:, 0], cache)


@on_cuda
def test_no_rows(backend: Backend) -> None:
    empty = torch.zeros(0, dtype=torch.int32, device=backend.device)
    k = torch.randn(2, 3, 2, 8, device=backend.device, requires_grad=True)
    q = torch.zeros(0, 2, 8, device=backend.device, requires_grad=True)
    with use_backend(backend.name):
        for enabled in (False, True):
            with torch.set_grad_enabled(enabled):
                rows = PrefixRows(empty, empty, empty)
                out = cached_reason_attention(q, q, q, ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rows))
                assert out.shape == (0, 2, 8)
        gradient = torch.autograd.grad(out.sum(), k)[0]
    assert gradient.shape == k.shape and gradient.abs().max() == 0


@on_cuda
def test_what_it_does_not_serve(backend: Backend) -> None:
    def attend(dtype: torch.dtype, width: int) -> Tensor:
        k = torch.ones(2, 3, 1, width, dtype=dtype, device=backend.device)
        cache = ReasoningCache.from_prefix(k, k, max_tokens=1)
        return cached_reason_attention(k[:, 0], k[:, 0], k[:, 0], cache)

    with use_backend(backend.name):
        assert attend(torch.float32, 256).shape == (2, 1, 256)
        with pytest.raises(ValueError, match="'cuda' does not serve head width 264, at most 256"):
            attend(torch.float32, 264)
        with pytest.raises(ValueError, match=r"'cuda' does not serve torch.float64"):
            attend(torch.float64, 32)
        with pytest.raises(ValueError, match="'cuda' does not serve this operation"):
            annealed_cross_entropy(
                torch.ones(2, 1, 4, device=backend.device), torch.ones(3, 4, device=backend.device),
                torch.zeros(2, dtype=torch.int64, device=backend.device), temperature=1.0,
            )  # fmt: skip


@on_cuda
def test_tensors_on_two_devices(backend: Backend) -> None:
    k = torch.zeros(2, 3, 1, 8, device=backend.device)
    cache = ReasoningCache.from_prefix(k, k, max_tokens=1)
    elsewhere = torch.zeros(2, 1, 8, device="meta")
    with use_backend(backend.name), pytest.raises(ValueError, match=f"q is on meta, the cache on {k.device}"):
        cached_reason_attention(elsewhere, k[:, 0], k[:, 0], cache)
    with pytest.raises(ValueError, match="k and v must agree"):
        ReasoningCache.from_prefix(k, k.to("meta"), max_tokens=1)
    with pytest.raises(ValueError, match=f"start is on meta, the prefix on {k.device}"):
        rows = PrefixRows(torch.zeros(2, dtype=torch.int32, device="meta"))
        ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rows)


@on_cuda
@pytest.mark.parametrize("requires_grad", [False, True])
def test_more_steps_than_a_launch_takes(backend: Backend, requires_grad: bool) -> None:
    steps = native.CUDA.MAX_SEGMENTS + 3
    problem = Problem((2, 5, 3, 2, 1, 8, steps, 1), backend.device)
    if not requires_grad:
        with use_backend("reference"):
            exact = problem.outputs(problem.leaves(torch.float64, requires_grad=False))
        with use_backend(backend.name):
            got = problem.outputs(problem.leaves(torch.float32, requires_grad=False))
    else:
        exact = problem.results("reference", torch.float64)
        got = problem.results(backend.name, torch.float32)
    assert relative_error(got, exact) < 1e-5


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0, 1])
def test_addresses_that_are_not_aligned(backend: Backend, dtype: torch.dtype, offset: int) -> None:
    """A prefix that starts one element into its storage cannot be read in words of 16 bytes."""
    problem = Problem((3, 11, 4, 2, 2, 32, 2, 1), backend.device)
    leaves = problem.leaves(dtype, requires_grad=False)
    for i in range(2):
        storage = torch.empty(leaves[i].numel() + offset, dtype=dtype, device=backend.device)
        leaves[i] = storage[offset:].view_as(leaves[i]).copy_(leaves[i])
    with use_backend("reference"):
        exact = problem.outputs([x.double() for x in leaves])
    with use_backend(backend.name):
        got = problem.outputs(leaves)
    assert relative_error(got, exact) < 4 * torch.finfo(dtype).eps


@pytest.mark.cuda_on_cpu
def test_debug_mode_waits_and_raises_in_the_call(
    simulated_launchers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []

    def fail(stream: int) -> None:
        waited.append(stream)
        raise RuntimeError("a kernel: CUDA error cudaErrorIllegalAddress")

    class Launchers:
        def __getattr__(self, name: str) -> object:
            return fail if name == "synchronize" else getattr(simulated_launchers, name)

    k = torch.zeros(2, 3, 1, 8)
    launch = stream.launch
    with simulated_cuda(simulated_launchers), use_backend("cuda"):
        monkeypatch.setattr(native, "CUDA", Launchers())
        monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of a CPU
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
        monkeypatch.setattr(stream, "launch", launch)
        cache = ReasoningCache.from_prefix(k, k, max_tokens=1)
        cached_reason_attention(k[:, 0], k[:, 0], k[:, 0], cache)
        assert waited == []
        monkeypatch.setitem(SWITCHES, "REAREC_DEBUG", True)
        with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
            cached_reason_attention(k[:, 0], k[:, 0], k[:, 0], cache, step=0)
        assert waited == [7]
