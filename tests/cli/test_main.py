"""The command line as a user meets it."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from centerarc import __version__
from centerarc.cli import main
from centerarc.cli.commands import app
from centerarc.cli.flags import with_flags
from tests.commands import torchrun


def _main(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    code = stop.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\ndata: {{source: folder, root: nowhere}}\n")
    return path


def test_help_and_version_do_not_load_torch() -> None:
    code = (
        "import sys\n"
        "from centerarc.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    for word in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, word], capture_output=True, text=True, check=True
        )
        assert ("train" in done.stdout) if word == "--help" else (__version__ in done.stdout)


def test_help_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _main(capsys, "train", "--help")
    assert code == 0
    for word in ("CONFIG", "--resume", "--overwrite", "--loss.m 0.4", "torchrun"):
        assert word in out


@pytest.mark.parametrize("words", ["--resume atuo", "--resume=atuo", "--resume AUTO"])
def test_a_mistyped_value_of_resume_is_told(
    capsys: pytest.CaptureFixture[str], config: Path, words: str
) -> None:
    code, _, err = _main(capsys, "train", str(config), *words.split())
    assert (code, err) == (2, f"error: --resume is {words[9:]!r}; did you mean --resume auto?\n")


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        ("CONFIG", False),
        ("CONFIG --resume", True),
        ("--resume CONFIG", True),
        ("CONFIG --resume --loss.m 0.4", True),
        ("CONFIG --resume auto", "auto"),
        ("--resume auto CONFIG --loss.m 0.4", "auto"),
        ("CONFIG --loss.m 0.4 --resume=auto", "auto"),
        ("CONFIG --resume=auto --loss.m 0.4", "auto"),
    ],
)
def test_resume_takes_a_value_or_none(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config: Path,
    words: str,
    resume: object,
) -> None:
    from centerarc.training import loop

    given: list[tuple[float, dict[str, object]]] = []
    monkeypatch.setattr(loop, "train", lambda c, **how: given.append((c.loss.m, how)))
    code, _, err = _main(capsys, "train", *words.replace("CONFIG", str(config)).split())
    assert (code, err) == (0, "")
    margin = 0.4 if "--loss.m" in words else 0.5
    assert given == [(margin, {"resume": resume, "overwrite": False})]


def test_list_settings_shows_every_section(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    code, out, _ = _main(capsys, "train", str(config), "--list-settings", "--loss.m", "0.25")
    assert code == 0
    for word in (
        "--loss.m 0.25  (default 0.5)\n",
        "--schedule.epochs 20\n",
        "--data.root nowhere ",
    ):
        assert f"\n{word}" in out
    assert "\n--validation none\n" not in out  # its fields are listed
    assert "\n--validation.pairs none\n    " in out
    assert "\n--validation.name none\n    " in out
    assert "kind of images: folder, list, parquet, recordio, shards, synthetic, mixed" in out


def test_list_settings_is_readable_in_80_columns(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = _main(capsys, "train", str(config), "--list-settings", "--run-dir", "x" * 90)
    lines = out.splitlines()
    assert "--run_dir " + "x" * 90 + "  (required)" in lines  # to be copied
    meanings = [line for line in lines if not line.startswith("--")]
    assert all(line.startswith("    ") and len(line) <= 80 for line in meanings)
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) < 3 * sum(line.startswith("--") for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nothing.yaml"], "there is no configuration file 'nothing.yaml'"),
        (["train", "CONFIG", "--loss.n", "1"], "unknown field --loss.n; did you mean --loss."),
        (["train", "CONFIG", "--resume", "always"], "got 'always'; expected a flag"),
        (["train", "CONFIG", "--resume", "auto", "--overwrite"], "exclude each other"),
        (["train", "CONFIG", "--resum"], "did you mean --resume?"),
        (["compare", "a", "b", "--jsn", "x"], "unknown option --jsn; did you mean --json? see "),
        (["data", "check", "a", "--folder", "x"], "--folder; see centerarc data check --help"),
        (["train", "CONFIG"], "nowhere"),
        (["train"], "give a configuration: centerarc train CONFIG.yaml"),
        (["train", "--list-settings"], "give a configuration: centerarc train CONFIG.yaml"),
        (["data", "pack"], "SOURCE requires an argument (see centerarc data pack --help)"),
        (["trian"], "did you mean 'train'?"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], config: Path, words: list[str], message: str
) -> None:
    words = [str(config) if word == "CONFIG" else word for word in words]
    code, _, err = _main(capsys, *words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def _look(*, pairs: object = None, images: object = None, size: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("images must be a folder", "--images must be a folder"),
        ("image_size is 3, but it must be 4", "--size is 3, but it must be 4"),
        ("bootstrap must be 7", "bootstrap must be 7"),
        ("a/pairs.txt: pairs must be two", "a/pairs.txt: --pairs must be two"),
        # Words that are not names of arguments stay, and so do paths.
        ("the images must be sharp: pairs is wrong", "the images must be sharp: pairs is wrong"),
        ("images/pairs must exist", "images/pairs must exist"),
        ("folds must be whole", "folds must be whole"),
    ],
)
def test_an_argument_of_the_library_is_a_flag_of_the_command(message: str, said: str) -> None:
    assert with_flags(_look, ValueError(message)) == said


def _help(command: str) -> str:
    """The help of a command in a terminal of 80 columns."""
    out = io.StringIO()
    app.help_print([command], console=Console(width=80, file=out))
    return out.getvalue()


@pytest.mark.parametrize("command", ["evaluate", "compare", "embed", "export"])
def test_help_fits_80_columns_and_hides_defaults_that_say_nothing(command: str) -> None:
    out = _help(command)
    assert max(map(len, out.splitlines())) <= 80
    for noise in ('""', "()", "False"):
        assert f"[default: {noise}]" not in out


def test_help_of_evaluate_has_groups_and_an_example() -> None:
    out = _help("evaluate")
    names = ("What to judge on", "Model", "How to judge", "Output")
    at = [out.index(f" {name} ─") for name in names]
    assert at == sorted(at)
    assert "centerarc evaluate runs/mine --pairs pairs.txt --images faces" in out
    # A line of the docstring that goes on is not a new line of the help.
    assert "│ MODEL  A run folder, a weights file, an ONNX file, hf://owner/name on the    │" in out
    assert "│        Hugging Face Hub, a public checkpoint with --architecture" in out
    assert "each pixel value, 0 to 255; one number or three with commas between. 127.5 by" in (
        " ".join(out.replace("│", " ").split())
    )
    assert "one number or three with  " not in out
    assert "0 for no intervals; else resamples of the people" in " ".join(
        out.replace("│", " ").split()
    )


def test_help_of_compare_asks_for_two_and_says_which_is_the_first() -> None:
    out = _help("compare")
    assert "BASELINE OTHER" in out
    assert "compared with this one" in " ".join(out.replace("│", " ").split())


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        main(["train", "nothing.yaml", "--debug"])
    monkeypatch.setenv("CENTERARC_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["train", "nothing.yaml"])


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_ends_with_the_line_of_an_error(config: Path) -> None:
    with torchrun("train", str(config)) as launcher:
        _, errors = launcher.communicate()
    assert launcher.returncode == 1
    report = errors[errors.index("Root Cause") :]
    assert "traceback : error: " in report
    assert "nowhere" in report


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_trains(tmp_path: Path) -> None:
    from tests.training.helpers import write_faces

    config = tmp_path / "config.yaml"
    config.write_text(
        f"run_dir: {tmp_path / 'run'}\n"
        f"data: {{source: folder, root: {write_faces(tmp_path / 'faces')}}}\n"
        "model: {name: mobilefacenet_small, embedding_size: 8, image_size: 16}\n"
        "schedule: {epochs: 1, warmup_epochs: 0}\nbatch_size: 12\nworkers: 0\ndevice: cpu\n"
    )
    # As a user starts it; other tests fork its processes.
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [sys.executable, *command, "centerarc", "train", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("on 2 x cpu") == 1, "only rank 0 speaks"
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_an_empty_run_dir_of_the_demo_is_not_the_current_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(capsys, "demo", "--run-dir", "", "--people", "0")
    assert code == 2
    assert "run_dir: the path is empty" in err
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_no_unicode_can_be_printed(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text('run_dir: "a\\uDCFF"\ndata: {source: synthetic}\n')
    done = subprocess.run(
        [sys.executable, "-m", "centerarc", "train", str(config), "--list-settings"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"a\\udcff" in done.stdout


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["evaluate", "model", "--resamples", "1.5"], "--resamples"),
        (["evaluate", "model", "--ranks", "1.5"], "--ranks"),
        (["data", "pack", "a", "b", "--size", "112.5"], "--size"),
    ],
)
def test_a_broken_number_is_no_whole_one(
    capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    code, _, error = _main(capsys, *words)
    assert code == 2
    assert flag in error
    assert "whole number" in error
