"""Replays of padded passes: equal to calling the model, dropped by refresh, bounded; else the model is called.

A stand-in records the passes; test_cuda_graphs.py captures real CUDA graphs.
"""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import (
    HISTORIES,
    LENGTHS,
    MAX_LEN,
    STEPS,
    batch_of,
    model_of,
    other_weights,
    recommender_of,
)
from torch import Tensor, nn

from rearec.engine import Engine
from rearec.engine.cuda_graphs import CudaGraphs
from rearec.models.config import METHODS
from rearec.reasoning import ReaRec
from rearec_kernels import available_backends, use_backend

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")


class Recorder:
    """Stands in for CUDA graphs on a CPU.

    Like theirs, a replay reads the memory that the parameters had when it was recorded, whatever they are now, and
    writes its result over the result of the replay before.
    """

    def __init__(self, model: ReaRec) -> None:
        self.model = model
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        read = [(parameter, parameter.data) for parameter in self.model.parameters()]
        out = run()

        def replay() -> Tensor:
            self.replayed += 1
            now = [parameter.data for parameter, _ in read]
            for parameter, memory in read:
                parameter.data = memory
            out.copy_(run())
            for (parameter, _), memory in zip(read, now, strict=True):
                parameter.data = memory
            return out

        return replay


def graphed(model: ReaRec, **options: Any) -> tuple[Engine, Recorder]:
    recorder = Recorder(model)
    return Engine(model, capture=recorder, **options), recorder


@settings(max_examples=25, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    batches=st.lists(
        st.tuples(st.lists(st.integers(1, MAX_LEN), min_size=1, max_size=9), st.integers(0, 99), st.integers(0, STEPS)),
        min_size=1,
        max_size=4,
    ),
)
@pytest.mark.parametrize("inference_mode", [False, True])
def test_a_replay_equals_calling_the_model(
    inference_mode: bool, method: str, batches: list[tuple[list[int], int, int]]
) -> None:
    model = model_of(method)
    rollout, recorder = graphed(model)
    for _ in range(3):  # a plain call, a recording, a replay: each after batches of the same and of other shapes
        for lengths, seed, steps in batches:
            batch, steps = batch_of(lengths, seed, rows_per_window=None), min(steps, model.config.steps)
            with torch.inference_mode() if inference_mode else torch.no_grad():
                states = rollout(batch, steps).states
                torch.testing.assert_close(states, model(batch, steps=steps).states, rtol=1e-12, atol=1e-12)
    assert recorder.replayed >= len(batches)
    assert recorder.recorded == rollout.num_graphs <= len(batches)


@pytest.mark.usefixtures("no_gradients")
def test_inference_mode_can_be_entered_and_left_between_calls() -> None:
    model, batch = model_of(), batch_of([4, 5])
    rollout, recorder = graphed(model)
    expected = model(batch).states
    for inference_mode in (True, False, True, False):
        with torch.inference_mode(inference_mode), torch.no_grad():
            states = rollout(batch).states
            torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
            assert states.is_inference() == inference_mode
    assert (recorder.recorded, recorder.replayed) == (1, 2)


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    ("small", "large", "other"),
    [
        ((3, 1), (4, 8), (5, 8)),
        ((5, 9), (8, 16), (8, 17)),
        ((33, 8), (64, 2), (32, 8)),
        ((129, 17), (256, MAX_LEN), (257, MAX_LEN)),
        ((257, 3), (512, 3), (513, 3)),
        ((513, 3), (768, 8), (768, 9)),
    ],
)
def test_shapes_are_rounded_up_so_that_few_graphs_serve_many_batches(
    small: tuple[int, int], large: tuple[int, int], other: tuple[int, int]
) -> None:
    rollout, recorder = graphed(model_of())
    for rows, slots in (small, large, small, other):
        assert rollout(batch_of([slots] * rows)).states.shape == (rows, STEPS + 1, 8)
    assert (recorder.recorded, recorder.replayed) == (1, 1)


@pytest.mark.usefixtures("no_gradients")
def test_padding_depends_on_no_earlier_batch() -> None:
    inputs = []

    def capture(run: Any) -> Callable[[], Tensor]:
        inputs.append(run.__self__.inputs)
        return run

    rollout = Engine(model_of(), capture=capture)
    batch = batch_of([2, 7, 1])
    for before in ([8, 8, 8, 8], [1, 1, 1]):
        for lengths in (before, before):
            rollout(batch_of(lengths))
        rollout(batch)
        (padded,) = inputs
        real = torch.zeros(4, 8, dtype=torch.int64)
        real[:3, :7] = batch.items
        assert torch.equal(padded.items, real)
        assert padded.row_prefix.tolist() == [0, 1, 2, 3]
        assert padded.end.tolist() == [2, 7, 1, 1]


@pytest.mark.usefixtures("no_gradients")
def test_a_shape_is_captured_when_it_comes_for_the_second_time() -> None:
    rollout, recorder = graphed(model_of())
    for call, (recorded, replayed) in enumerate([(0, 0), (1, 0), (1, 1), (1, 2)]):
        rollout(batch_of([4, 5], seed=call))
        assert (recorder.recorded, recorder.replayed) == (recorded, replayed)


@pytest.mark.usefixtures("no_gradients")
def test_the_graphs_used_least_recently_are_dropped() -> None:
    rollout, recorder = graphed(model_of(), max_graphs=2)
    first, second, third = (batch_of(lengths) for lengths in LENGTHS)
    for batch in (first, first, second, second, first, third, third):  # `second` was not used for longest
        rollout(batch)
    assert (recorder.recorded, recorder.replayed, rollout.num_graphs) == (3, 1, 2)
    rollout(first)
    assert (recorder.recorded, recorder.replayed) == (3, 2)
    rollout(second)
    assert (recorder.recorded, recorder.replayed, rollout.num_graphs) == (3, 2, 1)


@pytest.mark.usefixtures("no_gradients")
def test_a_replay_does_not_write_to_the_results_of_earlier_ones() -> None:
    rollout, _ = graphed(model_of())
    results = [rollout(batch_of([4, 5], seed)).states for seed in range(5)]
    kept = [states.clone() for states in results]
    rollout(batch_of([1, 7], seed=5))
    assert all(map(torch.equal, results, kept))
    assert not torch.equal(results[3], results[4])


def written_in_place(model: ReaRec) -> None:
    model.load_state_dict(other_weights(model))


def replaced_by_moving(model: ReaRec) -> None:
    model.float()


def replaced_in_memory(model: ReaRec) -> None:
    for name, value in other_weights(model).items():
        model.get_parameter(name).data = value


def replaced_by_loading(model: ReaRec) -> None:
    model.load_state_dict(other_weights(model), assign=True)


def replaced_by_hand(model: ReaRec) -> None:
    model.backbone.input_norm = nn.LayerNorm(8).double()


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    "change", [written_in_place, replaced_by_moving, replaced_in_memory, replaced_by_loading, replaced_by_hand]
)
def test_no_graph_is_replayed_after_refresh(change: Callable[[ReaRec], None]) -> None:
    model = model_of()
    rollout, recorder = graphed(model)
    batches = [batch_of(lengths) for lengths in LENGTHS]
    for batch in batches * 2:
        rollout(batch)
    change(model)
    rollout.refresh()
    assert rollout.num_graphs == 0
    for batch in batches * 3:
        torch.testing.assert_close(rollout(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)
    assert (recorder.recorded, recorder.replayed, rollout.num_graphs) == (6, 3, 3)


@pytest.mark.usefixtures("no_gradients")
def test_a_failing_capture_is_one_warning_and_right_results_from_then_on() -> None:
    model, attempts = model_of(), []

    def refuse(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        attempts.append(run)
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nhints for people who compile CUDA")
        finally:
            raise ValueError("operation failed due to a previous error during capture")

    rollout = Engine(model, capture=refuse)
    batches = [batch_of(lengths) for lengths in LENGTHS]
    with pytest.warns(UserWarning) as caught:
        for batch in batches * 3:
            torch.testing.assert_close(rollout(batch).states, model(batch).states, rtol=1e-12, atol=1e-12)
    assert [str(warning.message) for warning in caught] == [
        "the model cannot be captured as a CUDA graph, its kernels are launched one by one: "
        "ValueError: operation failed due to a previous error during capture, "
        "after RuntimeError: operation not permitted when stream is capturing"
    ]
    assert caught[0].filename == __file__
    assert len(attempts) == 1 and rollout.num_graphs == 0


def test_graphs_are_replayed_whatever_the_mode_of_the_caller_and_of_the_model() -> None:
    model, batch = model_of(), batch_of([4, 5])
    rollout, recorder = graphed(model)
    with torch.no_grad():
        expected = model(batch).states
    model.train()
    for _ in range(3):
        states = rollout(batch).states
        torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
        assert not states.requires_grad and model.training
    assert (recorder.recorded, recorder.replayed) == (1, 1)


@pytest.mark.usefixtures("no_gradients")
def test_the_model_refuses_what_does_not_fit_it() -> None:
    rollout, recorder = graphed(model_of())
    batch = batch_of([4, 5])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"steps: got 4, expected 0\.\.3"):
            rollout(batch, STEPS + 1)
        with pytest.raises(ValueError, match=r"items: got shape \(2, 21\)"):
            rollout(replace(batch, items=torch.zeros(2, MAX_LEN + 1, dtype=torch.int64)))
        with pytest.raises(ValueError, match=r"items: got shape \(2,\)"):
            rollout(replace(batch, items=batch.items[:, 0]))
        with pytest.raises(ValueError, match=r"row_prefix and end: got shapes \(1,\) and \(2,\)"):
            rollout(replace(batch, row_prefix=batch.row_prefix[:1]))
    assert recorder.recorded == 0
    with pytest.raises(ValueError, match="max_graphs: got 0"):
        Engine(model_of(), max_graphs=0)


@pytest.mark.usefixtures("no_gradients")
def test_what_decides_which_kernels_run_has_graphs_of_its_own() -> None:
    # a batch that needs no padding: products of padded shapes may round differently
    model, batch = model_of(dtype=torch.float32), batch_of([4, MAX_LEN])
    rollout, recorder = graphed(model)
    exact = [rollout(batch).states for _ in range(3)][-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = [rollout(batch).states for _ in range(3)]
        expected = model(batch).states
    assert 0 < (rounded[-1] - exact).abs().max() < 0.2
    assert all(torch.equal(states, expected) for states in rounded)
    assert (recorder.recorded, recorder.replayed) == (2, 2)
    with use_backend("reference"):
        for _ in range(3):
            torch.testing.assert_close(rollout(batch).states, exact, rtol=1e-5, atol=1e-5)
        for _ in range(3):
            torch.testing.assert_close(rollout(batch, 1).states, exact[:, :2], rtol=1e-5, atol=1e-5)
    # without the native module the reference is what runs anyway
    recorded = 4 if "cpu" in available_backends() else 3
    assert recorder.recorded == rollout.num_graphs == recorded
    with use_backend("cuda"), pytest.raises(ValueError, match="backend 'cuda' cannot run on cpu"):
        rollout(batch)


@pytest.mark.usefixtures("no_gradients")
def test_threads_take_turns() -> None:
    model = model_of()
    inside, most_inside = 0, 0

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            nonlocal inside, most_inside
            inside += 1
            most_inside = max(most_inside, inside)
            time.sleep(0.01)
            inside -= 1
            return run()

        return replay

    rollout = Engine(model, capture=capture)
    batches = [batch_of([4, 5], seed) for seed in range(4)]
    results: list[Tensor] = [torch.empty(0)] * len(batches)
    rollout(batches[0]), rollout(batches[0])

    def call(index: int) -> None:
        with torch.no_grad():  # holds for one thread only
            results[index] = rollout(batches[index]).states

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most_inside == 1
    for batch, states in zip(batches, results, strict=True):
        torch.testing.assert_close(states, model(batch).states, rtol=1e-12, atol=1e-12)


class NeverCaptures(CudaGraphs):
    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise AssertionError("captured on a CPU")


def test_on_a_cpu_the_model_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearec.engine.graphed.CudaGraphs", NeverCaptures)
    model, batch = model_of(dtype=torch.float32), batch_of([4, 5])
    rollout = Engine(model)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        states = [rollout(batch).states for _ in range(3)]
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
        torch.testing.assert_close(states[0], model(batch).states, rtol=1e-5, atol=1e-5)
    recommender = recommender_of(model)
    answers = [recommender.recommend(HISTORIES, k=3) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_a_copy_of_a_recommender_answers_alike_and_has_no_graphs() -> None:
    recommender = recommender_of(model_of())
    twin = copy.deepcopy(recommender)
    assert twin.recommend(HISTORIES) == recommender.recommend(HISTORIES)
    assert twin.model is not recommender.model
    assert twin._engine.num_graphs == 0
