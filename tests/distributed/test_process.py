"""Who a process is, and that one rank's failure reaches the others."""

import pytest
import torch

from centerarc.distributed import Processes, choose_device, init_from_env
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
