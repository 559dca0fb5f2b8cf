"""A study's runs: planned, run in processes, stopped, resumed, and refused where they differ."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from centerarc.io import children
from centerarc.io.children import ChildrenStopped, Ended
from centerarc.report.study_result import StudyResult
from centerarc.training import study as study_module
from centerarc.training.study import PlannedRun, fraction_done, plan_study, run_study
from centerarc.training.study_config import StudyConfig, check_study
from centerarc.training.study_run import RunRecord, run
from centerarc.training.study_table import summarize_study
from tests.commands import Command, forking
from tests.training.helpers import SLOW_STEPS, TINY_PLUGIN, make_config


def make_study(tmp_path: Path, faces: Path, **changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "study_dir": tmp_path / "study",
        "train": {
            "model": {
                "name": "tiny",
                "embedding_size": 8,
                "image_size": 16,
                "options": {"norm": True},
            },
            "plugins": [TINY_PLUGIN],
            "data": {"source": "folder", "root": faces},
            "loss": {"center_weight": 0, "s": 16},
            "schedule": {"epochs": 1},
            "batch_size": 12,
            "workers": 0,
            "device": "cpu",
            "log": {"every": 1},
        },
        "seeds": [0, 1],
        "threads": 1,
        "arms": {"softmax": {"loss.m": 0}, "arcface": {"loss.m": 0.2}},
        "evaluate": {"all_pairs": faces, "primary": "auc"},
    }
    return check_study({**content, **changes})


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are forked: that they start anew is seen where a study is stopped."""
    monkeypatch.setattr(children, "subprocess", forking("forkserver"))


def in_process(study: StudyConfig, *, overwrite: bool = False) -> list[PlannedRun]:
    """What `run_study` does, without processes."""
    for planned in plan_study(study, overwrite=overwrite):
        if planned.to_do:
            words = study_module._words(study, planned)[2:]
            assert run(words) == 0
    return plan_study(study)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss.margin": "arcfase"}, "arm 'b': loss: margin must be .* did you mean 'arcface'"),
        ({"loss.margin": "sphereface_r"}, "arm 'b': loss: .* set loss.m, such as 1.5"),
        ({"model.name": "iresnet51"}, "arm 'b': unknown model 'iresnet51'; did you mean"),
        ({"model.options": {"size": 1}}, "arm 'b': .* 'size'"),
        ({"callbacks": [{"name": "none"}]}, "arm 'b': unknown callback 'none'"),
        ({"batch_size": 1}, "arm 'b': batch_size is 1"),
    ],
)
def test_what_a_run_would_refuse_is_found_before_any_starts(
    tmp_path: Path, faces: Path, settings: dict[str, Any], message: str
) -> None:
    study = make_study(tmp_path, faces, arms={"a": {}, "b": settings})
    with pytest.raises(ValueError, match=message):
        run_study(study)
    assert not study.study_dir.exists()


def states(runs: list[PlannedRun]) -> list[str]:
    return [run.state for run in runs]


def tables(result: StudyResult) -> tuple[Any, ...]:
    return result.rows, result.curves, [(run.arm, run.seed, run.measures) for run in result.runs]


def test_processes_side_by_side_find_what_one_after_the_other_finds(
    tmp_path: Path, faces: Path, forked: None
) -> None:
    lines: list[str] = []
    parallel = make_study(tmp_path / "a", faces, seeds=[0], jobs=2)
    runs = run_study(parallel, say=lines.append)
    assert states(runs) == ["done", "done"]
    assert lines[0].startswith("2 runs of 2 to do, 2 at once with 1 thread each")
    assert {line.partition(":")[0] for line in lines[1:]} == {"softmax, seed 0", "arcface, seed 0"}
    assert lines[-1].endswith("(2 of 2)")
    serial = make_study(tmp_path / "b", faces, seeds=[0])
    others = in_process(serial)
    for one, other in zip(runs, others, strict=True):
        assert one.record is not None
        assert other.record is not None
        assert one.record.weights_sha256 == other.record.weights_sha256
    first, second = (
        summarize_study(parallel, runs, command=""),
        summarize_study(serial, others, command=""),
    )
    assert tables(first) == tables(second)
    assert first.complete
    # Nothing is left to do, and nothing is done.
    lines.clear()
    assert states(run_study(parallel, say=lines.append)) == ["done", "done"]
    assert lines == []


def test_runs_with_other_settings_are_refused_by_name_or_redone(
    tmp_path: Path, faces: Path, forked: None
) -> None:
    study = make_study(tmp_path, faces, seeds=[0])
    assert states(plan_study(study)) == ["start"] * 2
    in_process(study)
    harmless = make_study(tmp_path, faces, settings={"workers": 1, "log.every": 3}, seeds=[0])
    assert states(plan_study(harmless)) == ["done"] * 2
    changed = make_study(tmp_path, faces, settings={"optimizer.lr": 0.05}, seeds=[0])
    with pytest.raises(
        ValueError, match=r"arm 'softmax', seed 0, that differs: optimizer\.lr 0\.1"
    ) as e:
        plan_study(changed)
    assert "-> 0.05, and 1 more run with other settings; --overwrite trains it again" in str(
        e.value
    )
    arms = {"softmax": {"loss.m": 0}, "arcface": {"loss.m": 0.3}}
    one = make_study(tmp_path, faces, arms=arms, seeds=[0])
    with pytest.raises(
        ValueError, match=r"arm 'arcface', seed 0, that differs: loss\.m 0\.2 -> 0\.3"
    ):
        run_study(one)
    before = study.run_dir("softmax", 0) / "last.safetensors"
    written = before.stat().st_mtime_ns
    assert states(plan_study(one, overwrite=True)) == ["done", "again"]
    runs = run_study(one, overwrite=True, say=lambda line: None)
    assert states(runs) == ["done"] * 2
    assert runs[1].record is not None
    assert runs[1].record.config().loss.m == 0.3
    assert before.stat().st_mtime_ns == written
    # An arm and a seed more leave the others as they are.
    more = make_study(
        tmp_path, faces, arms={**one.arms, "cosface": {"loss.margin": "cosface"}}, seeds=[0, 1, 2]
    )
    assert states(plan_study(more)).count("done") == 2


def test_a_stopped_run_resumes_and_a_trained_one_is_only_judged(
    tmp_path: Path, faces: Path
) -> None:
    study = make_study(tmp_path, faces, arms={"one": {}}, seeds=[0])
    in_process(study)
    folder, scores = study.run_dir("one", 0), study.scores_dir("one", 0)
    (scores / "record.json").unlink()
    assert states(plan_study(study)) == ["judge"]
    (folder / "results.json").unlink()
    assert states(plan_study(study)) == ["resume"]
    other = make_study(tmp_path, faces, arms={"one": {"loss.m": 0.1}}, seeds=[0])
    with pytest.raises(ValueError, match=r"that differs: loss\.m 0\.5 -> 0\.1; --overwrite"):
        plan_study(other)
    in_process(study)
    (scores / "all_pairs.npz").unlink()
    assert states(plan_study(study)) == ["judge"]
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match="it must be judged, but its weights are gone"):
        plan_study(study)
    assert states(plan_study(study, overwrite=True)) == ["again"]


def test_a_set_that_cannot_be_judged_costs_nothing_that_was(tmp_path: Path, faces: Path) -> None:
    study = make_study(tmp_path, faces, arms={"one": {}}, seeds=[0])
    record = in_process(study)[0].record
    assert record is not None
    sets = {"all_pairs": {"all_pairs": faces}, "more": {"all_pairs": {"people": 9, "first": 50}}}
    added = make_study(tmp_path, faces, arms={"one": {}}, seeds=[0], evaluate={"sets": sets})
    planned = plan_study(added)[0]
    assert planned.state == "judge"
    ended = Ended("one, seed 0", 2, 1.0, "no such images")
    assert study_module._concluded(added, planned, ended) == "one, seed 0: failed: no such images"
    failed = plan_study(added)[0]
    assert failed.record is not None
    assert (failed.state, failed.record.status) == ("judge", "failed")
    assert failed.record.sets == record.sets
    scores = study.scores_dir("one", 0) / "all_pairs.npz"
    written = scores.stat().st_mtime_ns
    found = in_process(added)[0].record
    assert found is not None
    assert list(found.sets) == ["all_pairs", "more"]
    assert scores.stat().st_mtime_ns == written  # it was not judged again
    # Where the weights are gone, another start would fail for ever.
    (study.scores_dir("one", 0) / "record.json").unlink()
    (study.run_dir("one", 0) / "last.safetensors").unlink()
    with pytest.raises(ValueError, match="it must be judged, but its weights are gone"):
        plan_study(study)


def test_the_last_runs_have_as_many_threads_as_the_others(
    tmp_path: Path, faces: Path, faked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of threads gives other numbers, so a resumed run must not get more."""
    monkeypatch.setattr(study_module, "default_workers", lambda: 8)
    lines: list[str] = []
    study = make_study(tmp_path, faces, arms={"failed": {}}, seeds=[0], threads=None, jobs=4)
    run_study(study, say=lines.append)
    assert lines[0].startswith("1 run of 1 to do, 1 at once with 2 threads each")


def test_a_result_needs_no_runs_but_their_scores(tmp_path: Path, faces: Path) -> None:
    study = make_study(tmp_path / "a", faces, keep_weights=False)
    first = summarize_study(study, in_process(study), command="x")
    (tmp_path / "b/study").mkdir(parents=True)
    (tmp_path / "a/study/scores").rename(tmp_path / "b/study/scores")
    moved = make_study(tmp_path / "b", faces)
    assert states(plan_study(moved)) == ["done"] * 4
    assert tables(summarize_study(moved, plan_study(moved), command="x")) == tables(first)


# A process that ends as its name says, in place of one that trains.
FAKE = """
import sys, time
from centerarc.io.children import end_with_parent
end_with_parent()
how = sys.argv[1]
print(how, flush=True)
if how == "slow": time.sleep(60)
if how == "failed": sys.exit("error: no such images")
if how == "diverged":
    print("error: step 3: the loss is not finite")
    sys.exit(3)
"""


@pytest.fixture
def faked() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "_words", lambda study, run: ["-c", FAKE, run.arm])
        yield patch


def test_a_run_that_fails_is_recorded_and_the_others_go_on(
    tmp_path: Path, faces: Path, faked: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, faces, arms={"failed": {}, "diverged": {}}, seeds=[0])
    lines: list[str] = []
    runs = run_study(study, say=lines.append)
    assert lines[1:] == [
        "failed, seed 0: failed: no such images (1 of 2)",
        "diverged, seed 0: diverged: step 3: the loss is not finite (2 of 2)",
    ]
    # What failed may not fail again; what diverged would.
    assert states(runs) == ["start", "diverged"]
    assert [run.record and run.record.status for run in runs] == ["failed", "diverged"]
    assert states(plan_study(study, overwrite=True)) == ["start", "again"]
    with pytest.raises(ValueError, match="none of the 2 runs of the study is done; the first says"):
        summarize_study(study, runs, command="")
    # With settings that may do better, both start again unasked: nothing would be lost.
    mended = make_study(tmp_path, faces, arms=study.arms, seeds=[0], settings={"clip_norm": 5.0})
    assert states(plan_study(mended)) == ["again", "again"]
    # With another arm that is done the table has all of them.
    more = make_study(tmp_path, faces, arms={"one": {}, **study.arms}, seeds=[0])
    faked.undo()
    assert run(study_module._words(more, plan_study(more)[0])[2:]) == 0
    result = summarize_study(more, plan_study(more), command="")
    assert not result.complete
    assert [(r.arm, r.status, r.reason) for r in result.runs] == [
        ("one", "done", ""),
        ("failed", "failed", "no such images"),
        ("diverged", "diverged", "step 3: the loss is not finite"),
    ]
    assert "diverged, seed 0: diverged: step 3: the loss is not finite." in result.notes
    assert {row.arm for row in result.rows} == {"one"}


def test_wrong_sets_are_seen_before_anything_is_trained(
    tmp_path: Path, faces: Path, faked: None
) -> None:
    study = make_study(tmp_path, faces, evaluate={"all_pairs": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match=r"^evaluate\.sets\.all_pairs: .*nowhere"):
        run_study(study)
    few = make_study(tmp_path, faces, evaluate={"all_pairs": faces})
    with pytest.raises(ValueError, match="primary must be a measure that the set supports"):
        run_study(few)
    assert not (tmp_path / "study/runs").exists()


def test_a_signal_stops_all_and_another_process_is_kept_out(
    tmp_path: Path, faces: Path, faked: None
) -> None:
    study = make_study(tmp_path, faces, arms={"slow": {}, "slow2": {}}, seeds=[0])

    def stop() -> None:
        log = study.run_dir("slow", 0) / "train.log"
        end = time.monotonic() + 20
        while not (log.exists() and "slow" in log.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(ValueError, match="is in use: another process runs this study"):
            run_study(study)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(ChildrenStopped):
        run_study(study, say=lambda line: None)
    thread.join()
    assert states(plan_study(study)) == ["start", "start"]


def test_the_share_that_is_done(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule={"epochs": 4})
    assert fraction_done(config) == 0
    (tmp_path / "run").mkdir()

    def share(steps: int, **changes: Any) -> float:
        rows = [
            f'{{"kind": "train", "step": {s}, "epoch": {(s - 1) // 10 + 1}}}\n'
            for s in range(1, steps + 1)
        ]
        (tmp_path / "run/metrics.jsonl").write_text("".join(rows))
        return fraction_done(make_config(tmp_path / "run", faces, schedule=changes))

    assert share(3, epochs=4) == 0.5 / 4
    assert share(25, epochs=4) == 25 / 40
    assert share(40, epochs=4) == 1
    assert share(5, epochs=4, max_steps=20) == 5 / 20


@pytest.mark.slow
def test_a_study_that_is_stopped_resumes_to_the_same_result(tmp_path: Path, faces: Path) -> None:
    long = {"schedule.epochs": 16, "save_every": 1}
    whole = make_study(tmp_path / "a", faces, arms={"one": long}, seeds=[0])
    in_process(whole)
    parts = make_study(tmp_path / "b", faces, arms={"one": long}, seeds=[0])
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.training.test_study import make_study\n"
        "from centerarc.training.study import run_study\n"
        f"run_study(make_study(Path(sys.argv[1]), Path(sys.argv[2]), arms={{'one': {long!r}}}, "
        "seeds=[0]))\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    words = [str(program), str(tmp_path / "b"), str(faces)]
    metrics = parts.run_dir("one", 0) / "metrics.jsonl"
    for number, how in enumerate((signal.SIGINT, signal.SIGKILL)):
        with Command(*words, module="tests.commands", environment=SLOW_STEPS, forks=True) as parent:
            end = time.monotonic() + 60
            rows = 0
            while rows < 8 * (number + 1) and time.monotonic() < end:
                assert parent.poll() is None
                rows = len(metrics.read_text().splitlines()) if metrics.exists() else 0
                time.sleep(0.02)
            parent.send_signal(how)
            parent.wait()
        assert RunRecord.read(parts.scores_dir("one", 0)) is None
    # An orphan of the killed one may still be saving: the next start waits for it.
    run_study(parts, say=lambda line: None)
    first, second = (summarize_study(s, plan_study(s), command="") for s in (whole, parts))
    assert tables(first) == tables(second)
    assert first.runs[0].weights_sha256 == second.runs[0].weights_sha256
