"""What the environment says of processes, how they meet, and how it is told when they do not."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import pytest
import torch
from groups import free_port

from rearec.distributed import Processes, SharedBatches, joined, processes
from rearec.distributed.environment import Place, meeting_point, place
from rearec.distributed.launch import LOST, _ending, launch
from rearec.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "123456", "SLURM_NODELIST": "gpu[07-09,12]",
}  # fmt: skip


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
def test_the_place_is_read(variables: Mapping[str, str]) -> None:
    assert place(variables) == Place(rank=3, size=4, local_rank=1, local_size=2, node=1)


def test_slurm_need_not_say_how_many_are_on_a_machine() -> None:
    variables = {**SLURM, "SLURM_NNODES": "2"}
    del variables["SLURM_NTASKS_PER_NODE"]
    assert place(variables) == Place(rank=3, size=4, local_rank=1, local_size=2, node=1)


def test_a_shell_of_slurm_is_no_process_of_a_group() -> None:
    assert place({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert place({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NUM_TASKS"}) is None
    assert place({}) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": "4"}, "torchrun: RANK=4, WORLD_SIZE=4: no place in a group"),
        ({"RANK": "one"}, "RANK: got 'one', expected a number"),
        ({"LOCAL_RANK": "2"}, "torchrun: process 2 of 2 on its machine, of 4 in all: expected as many"),
        ({"WORLD_SIZE": "5"}, "torchrun: process 1 of 2 on its machine, of 5 in all: expected as many"),
    ],
)
def test_a_wrong_place_is_one_line(changed: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        place({**TORCHRUN, **changed})
    assert str(caught.value).startswith(message)


def test_where_processes_meet() -> None:
    assert meeting_point({"MASTER_ADDR": "head", "MASTER_PORT": "7000"}) == ("head", 7000)
    host, port = meeting_point(SLURM)
    assert host == "gpu07" and 15000 <= port < 25000
    assert meeting_point({**SLURM, "SLURM_NODELIST": "a,b"})[0] == "a"
    with pytest.raises(UserError, match="MASTER_PORT: got '99999', expected a port number"):
        meeting_point({"MASTER_ADDR": "head", "MASTER_PORT": "99999"})


def set_place(patch: pytest.MonkeyPatch, rank: int, port: int) -> None:
    variables = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1"}.items():
        patch.setenv(name, str(value))


def test_a_first_process_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    set_place(monkeypatch, 1, port)
    with pytest.raises(UserError) as caught, joined(torch.device("cpu"), timeout=2):
        pass
    assert str(caught.value).startswith(f"process 1 of 2 did not meet the others at 127.0.0.1:{port}: ")
    assert "\\n" not in str(caught.value) and len(str(caught.value)) < 250
    assert processes() == Processes(0, 1)


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        set_place(monkeypatch, 0, taken.getsockname()[1])
        with (
            pytest.raises(UserError, match="did not meet the others") as caught,
            joined(torch.device("cpu"), timeout=2),
        ):
            pass
    assert "in use" in str(caught.value).lower() or "EADDRINUSE" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_group_of_one_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    set_place(monkeypatch, 0, free_port())
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with joined(torch.device("cpu"), timeout=20) as device:
        assert torch.distributed.is_initialized() and device.type == "cpu"
        with joined(torch.device("cpu")):  # is there already
            pass
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("codes", "said", "expected"),
    [
        ({1: -9}, {}, (1, "process 1 was ended by SIGKILL, and the others with it; a training goes on with --resume")),
        ({0: -15, 1: -9}, {}, (1, "process 1 was ended by SIGKILL")),
        ({0: 2, 1: -15}, {0: "error: no"}, (2, "error: no")),
        ({0: -15, 1: 2}, {1: "error: no"}, (2, "error: no")),
        ({0: 2, 1: 2}, {1: "error: no", 0: "error: yes"}, (2, "error: yes")),
        ({1: 2}, {}, (2, "process 1 ended with exit code 2, and the others with it")),
        ({0: LOST, 1: -11}, {}, (1, "process 1 was ended by SIGSEGV")),
        ({0: LOST, 1: -15}, {}, (1, "a process was lost, or answered no more, and the others were ended")),
        ({0: -15}, {}, (1, "process 0 ended with exit code 1")),
    ],
)
def test_how_processes_ended(codes: dict[int, int], said: dict[int, str], expected: tuple[int, str]) -> None:
    code, line = _ending(codes, said)
    assert code == expected[0]
    assert line.startswith(expected[1])


def test_several_machines_need_to_know_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "head")
    for name in ("MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--nodes 2: MASTER_PORT, NODE_RANK not set"):
        launch(["info"], processes=1, machines=2, timeout=1)
    monkeypatch.setenv("MASTER_PORT", "7000")
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(UserError, match=r"NODE_RANK: got '2', expected 0\.\.1"):
        launch(["info"], processes=1, machines=2, timeout=1)


@pytest.mark.parametrize("slot_work", [0.0, 0.3])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_the_batch_and_alike(size: int, slot_work: float) -> None:
    """Every row once, in order, with the same items; and no share has much more than its part of the work."""
    from group_cases import dataset

    from rearec.data import PairBatches

    batches = PairBatches(dataset(), "train", batch_rows=100, max_len=10, shuffle=True, seed=3)
    shares = [SharedBatches(batches, Processes(rank, size), slot_work) for rank in range(size)]
    assert {len(share) for share in shares} == {len(batches)}
    for index in range(len(batches)):
        whole, parts = batches[index], [share[index] for share in shares]
        rows, work = [], []
        for part in parts:
            assert part.part is not None and part.part.rows.of == whole.num_rows
            if part.part.counted == 0:
                assert (part.target == -100).all()
                continue
            assert part.part.rows.first == len(rows)
            assert part.row is not None
            rows += part.row.tolist()
            width = part.items.shape[1]
            first = int(whole.row_prefix[part.part.rows.first])
            assert part.items.equal(whole.items[first : first + part.num_windows, :width])
            work.append(part.num_rows + slot_work * int(part.lengths.sum()))
        assert whole.row is not None and rows == whole.row.tolist()
        _, window_rows = whole.row_prefix.unique_consecutive(return_counts=True)
        largest = int(window_rows.max()) + slot_work * int(whole.lengths.max())
        assert max(work) <= sum(work) / size + largest
