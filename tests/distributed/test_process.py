"""Who a process is, and that one rank's failure reaches the others."""

import pytest
import torch

from centerarc.distributed import Processes, choose_device, init_from_env, process
from tests.distributed.pool import Pool


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    processes = init_from_env("cpu")
    assert (processes.rank, processes.world_size, processes.is_main) == (0, 1, True)


def test_half_of_torchruns_variables_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not set"):
        init_from_env("cpu")


def test_a_lost_process_is_said_without_the_source_and_the_advice_of_gloo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = Processes(0, 2, torch.device("cpu"))
    monkeypatch.setattr(process, "init_from_env", lambda *_: two)
    reset = "Read error [10.0.0.2]:462: Connection reset by peer"
    with pytest.raises(ValueError) as caught, process.joined():
        raise RuntimeError(f"[/gloo/tcp/pair.cc:537] {reset}. This is typically caused by a bug.")
    assert str(caught.value) == (
        f"process 0 lost another one, which says why it ended unless it was killed ({reset})"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="device is 'cuda'"):
        choose_device("cuda")
    assert choose_device("auto").type in ("cpu", "mps")


def _disagree(rank: int) -> str:
    processes = Processes(rank, 2, torch.device("cpu"))
    assert processes.sum(torch.tensor([float(rank)])).item() == 1
    assert processes.gather_objects(rank) == [0, 1]
    try:
        processes.agree("no such folder" if rank == 1 else None)
    except ValueError as error:
        return str(error)
    return "no error"


@pytest.mark.distributed
def test_an_error_of_one_rank_is_raised_on_all(pool: Pool) -> None:
    assert pool.run(_disagree) == ["rank 1: no such folder"] * 2


@pytest.mark.parametrize(
    ("processes", "restarts", "words"),
    [
        (1, None, ""),
        (1, "0", ""),
        (2, "0", "torchrun --nproc-per-node 2 -m "),
        (2, "3", "torchrun --nproc-per-node 2 --max-restarts 3 -m "),
        (1, "3", "torchrun --nproc-per-node 1 --max-restarts 3 -m "),
    ],
)
def test_a_run_is_resumed_with_the_restarts_that_it_had(
    processes: int, restarts: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    assert process.launcher(processes) == words
