"""Real CUDA graphs of whole passes: equal to calling the model, dropped when stale, harmless when a capture fails."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import (
    HISTORIES,
    LENGTHS,
    MAX_LEN,
    batch_of,
    dataset_of,
    model_of,
    other_weights,
    recommender_of,
)
from torch import Tensor, nn

from rearec.engine import Engine
from rearec.engine.cuda_graphs import CudaGraphs
from rearec.evaluation import rank_rows
from rearec.models.config import METHODS
from rearec_kernels import ReasoningCache, available_backends, cached_reason_attention, use_backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*does not serve torch.float64"),
]

# Padded operands may take other kernels, which round products differently. On CPUs two layers and three steps carry
# that to 1e-15, 1e-6 and 0.03.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.1}


def assert_equal_but_for_rounding(states: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(states, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device_of_batches", ["cpu", "cuda"])
def test_cuda_graphs_equal_calling_the_model(method: str, dtype: torch.dtype, device_of_batches: str) -> None:
    model = model_of(method, dtype, dim=32).cuda()
    rollout = Engine(model)
    kept, shapes = [], [*LENGTHS, [MAX_LEN] * 40, [1] * 300]
    steps_of_graphs = {model.config.steps, model.config.steps // 2}
    for seed in range(4):
        for lengths in shapes:
            for steps in steps_of_graphs:
                batch = batch_of(lengths, seed, rows_per_window=2)
                states = rollout(batch.to(device_of_batches), steps).states
                kept.append((states, model(batch.to("cuda"), steps=steps).states))
    for states, expected in kept:  # only now: a replay that wrote to an earlier result would show
        assert_equal_but_for_rounding(states, expected)
    assert rollout.num_graphs == len(shapes) * len(steps_of_graphs)


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("backend", available_backends("cuda"))
def test_every_cuda_backend_can_be_captured(backend: str) -> None:
    model, batch = model_of(dtype=torch.float32).cuda(), batch_of([4, 5]).to("cuda")
    rollout = Engine(model)
    with use_backend(backend), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert_equal_but_for_rounding(rollout(batch).states, model(batch).states)
    assert rollout.num_graphs == 1


@pytest.mark.usefixtures("no_gradients")
def test_refresh_drops_cuda_graphs_and_takes_the_weights_as_they_are() -> None:
    model, batch = model_of(dtype=torch.float32).cuda(), batch_of([4, 5]).to("cuda")
    rollout = Engine(model)
    before = [rollout(batch).states for _ in range(3)][-1]
    model.load_state_dict(other_weights(model))
    rollout.refresh()
    after = [rollout(batch).states for _ in range(3)][-1]
    assert_equal_but_for_rounding(after, model(batch).states)
    assert not torch.allclose(before, after, rtol=1e-2) and rollout.num_graphs == 1
    model.double()
    with pytest.raises(ValueError, match=r"model: is torch\.float64 on cuda"):
        rollout(batch)
    rollout.refresh()
    assert rollout(batch).states.dtype == torch.float64 and rollout.num_graphs == 0
    assert_equal_but_for_rounding(rollout(batch).states, model(batch).states)
    assert rollout.num_graphs == 1
    model.cpu()
    rollout.refresh()
    assert rollout(batch_of([4, 5])).states.device.type == "cpu"


@pytest.mark.usefixtures("no_gradients")
def test_dropped_cuda_graphs_can_be_captured_again() -> None:
    model = model_of(dtype=torch.float32).cuda()
    rollout = Engine(model, max_graphs=2)
    batches = [batch_of(lengths).to("cuda") for lengths in LENGTHS]
    for order in ([0, 0, 1, 2], [0, 0, 1, 1, 0, 2, 2, 1, 1, 0, 0]):  # the first leaves no graph at all
        for index in order:
            expected = model(batches[index]).states
            assert_equal_but_for_rounding(rollout(batches[index]).states, expected)
    assert rollout.num_graphs == 2


@pytest.mark.usefixtures("no_gradients")
def test_cuda_graphs_under_autocast_keep_their_cast_weights_to_themselves() -> None:
    model, batch = model_of(dtype=torch.float32).cuda(), batch_of([4, 5]).to("cuda")
    rollout = Engine(model)
    for _ in range(2):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            for _ in range(3):
                torch.testing.assert_close(rollout(batch).states, model(batch).states, rtol=0.1, atol=0.1)
        assert rollout.num_graphs == 1
        model.load_state_dict(other_weights(model))
        rollout.refresh()
    for _ in range(3):
        assert_equal_but_for_rounding(rollout(batch).states, model(batch).states)
    assert rollout.num_graphs == 1


def waits_for_the_gpu(*_: Any) -> None:
    torch.cuda.synchronize()


def reads_a_value(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.sum().item()


def raises_while_capturing(*_: Any) -> None:
    if torch.cuda.is_current_stream_capturing():
        raise KeyError("no error of CUDA")


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("hook", [waits_for_the_gpu, reads_a_value, raises_while_capturing])
def test_a_capture_that_fails_leaves_torch_usable(hook: Callable[..., None], inference_mode: bool) -> None:
    model, batch = model_of(dtype=torch.float32).cuda(), batch_of([4, 5]).to("cuda")
    healthy = Engine(copy.deepcopy(model))
    for _ in range(2):
        healthy(batch)
    handle = model.backbone.encoder.layers[0].inner.register_forward_hook(hook)
    rollout, stream = Engine(model), torch.cuda.current_stream()
    expected = model(batch).states
    # torch.inference_mode(False) would enable gradients, which nothing is captured with.
    mode = torch.inference_mode() if inference_mode else nullcontext()
    with pytest.warns(UserWarning) as caught, mode:
        for _ in range(3):
            assert_equal_but_for_rounding(rollout(batch).states, expected)
    (warning,) = (str(warning.message) for warning in caught)
    assert warning.startswith("the model cannot be captured as a CUDA graph")
    assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
    assert torch.rand(1000, device="cuda").std() > 0.1
    handle.remove()
    again = Engine(model)
    for anew in (again, healthy):
        for _ in range(3):
            assert_equal_but_for_rounding(anew(batch).states, expected)
        assert anew.num_graphs == 1


@pytest.mark.usefixtures("no_gradients")
def test_what_cannot_be_captured_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(dtype=torch.float32).cuda(), batch_of([4, 5]).to("cuda")
    rollout, expected = Engine(model), model(batch).states
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # the caller's own
        states = rollout(batch).states
    graph.replay()
    assert_equal_but_for_rounding(states, expected)
    monkeypatch.setenv("REAREC_DEBUG", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert_equal_but_for_rounding(rollout(batch).states, expected)
    assert rollout.num_graphs == 0


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_a_recommender_on_a_gpu_answers_like_one_on_a_cpu(method: str) -> None:
    model = model_of(method)
    expected = recommender_of(model).recommend(HISTORIES, k=5, exclude_seen=True)
    recommender = recommender_of(copy.deepcopy(model), device="cuda", batch_rows=2)
    for _ in range(3):
        answers = recommender.recommend(HISTORIES, k=5, exclude_seen=True)
        assert [answer.items for answer in answers] == [answer.items for answer in expected]
        for answer, other in zip(answers, expected, strict=True):
            assert answer.scores == pytest.approx(other.scores, rel=1e-6)
    assert recommender._engine.num_graphs > 0


@pytest.mark.parametrize("per_step", [False, True])
def test_ranks_on_a_gpu_are_those_on_a_cpu(per_step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = []

    class CountedGraphs(CudaGraphs):
        def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
            captures.append(run)
            return super().__call__(run)

    monkeypatch.setattr("rearec.engine.graphed.CudaGraphs", CountedGraphs)
    dataset, model = dataset_of(users=500), model_of()
    expected = rank_rows(model, dataset, batch_rows=32, per_step=per_step)
    ranked = rank_rows(model.cuda(), dataset, batch_rows=32, per_step=per_step)
    assert len(captures) == 3  # of 8, 16 and 20 slots
    assert np.array_equal(ranked.final, expected.final)
    assert (ranked.by_step is None) == (expected.by_step is None) == (not per_step)
    if per_step:
        assert np.array_equal(ranked.by_step, expected.by_step)


@pytest.mark.usefixtures("no_gradients")
def test_captures_go_on_after_one_that_failed() -> None:
    graphs, x = CudaGraphs(torch.device("cuda", torch.cuda.current_device())), torch.ones(4, device="cuda")

    def waits() -> Tensor:
        torch.cuda.synchronize()
        return x + 1

    before = graphs(lambda: x + 2)
    with pytest.raises(RuntimeError):
        graphs(waits)
    after = graphs(lambda: x + 3)
    assert before().tolist() == [3.0] * 4
    assert after().tolist() == [4.0] * 4


@pytest.mark.usefixtures("no_gradients")
def test_attention_with_dropout_and_a_number_as_seed_can_be_captured() -> None:
    k = torch.randn(3, 5, 2, 32, device="cuda")
    q = torch.randn(3, 2, 32, device="cuda")
    cache = ReasoningCache.from_prefix(k, k, max_tokens=1)

    def attend() -> Tensor:
        return cached_reason_attention(q, q, q, cache, step=0, dropout_p=0.3, seed=5)

    expected = attend()
    replay = CudaGraphs(k.device)(attend)
    assert torch.equal(replay(), expected)
