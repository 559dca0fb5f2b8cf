"""What users register, and how their modules are found."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from centerarc.io.plugins import Registry, UnknownNameError, import_plugin, load_installed

pytestmark = pytest.mark.usefixtures("plugins_undone")


def box(*, given: int, side: int, depth: float = 1.0) -> tuple[int, int, float]:
    return given, side, depth


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape", ("given",))
    registry.register("box")(box)
    return registry


def install(folder: Path, name: str, module: str, code: str) -> None:
    """Writes a distribution with a plugin, as pip would unpack it."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[centerarc.plugins]\n{name} = {module}\n")
    (folder / f"{module}.py").write_text(code)


def test_a_builder_gets_its_options_and_what_the_library_gives(shapes: Registry) -> None:
    assert shapes.build("box", {"side": 3}, given=1) == (1, 3, 1.0)
    assert shapes.names() == ["box"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bx", {}, "unknown shape 'bx'; did you mean box? known shapes: box"),
        ("box", {"sid": 3}, "shape 'box' has no option 'sid'; its options: depth, side"),
        ("box", {"side": 3, "given": 2}, "shape 'box' has no option 'given'"),
        ("box", {"side": 2.5}, "option side of shape 'box' is 2.5; it must be of type int"),
        ("box", {"side": True}, "option side of shape 'box' is True; it must be of type int"),
        ("box", {"depth": 3}, "shape 'box' needs the option 'side'"),
    ],
)
def test_a_wrong_name_or_option_is_named(
    shapes: Registry, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        shapes.build(name, options, given=1)
    assert message in str(error.value)


def test_a_name_belongs_to_one_definition(shapes: Registry) -> None:
    assert shapes.register("box")(box) is box
    first, second = (lambda: 1), (lambda: 2)
    shapes.register("one")(first)
    with pytest.raises(ValueError, match="a shape named 'one' is registered already: "):
        shapes.register("one")(second)
    assert shapes["one"] is first
    for name in ("", " box", 3):
        with pytest.raises(ValueError, match="must be a text without blanks around"):
            shapes.register(name)(box)  # type: ignore[arg-type]


def test_the_same_definition_of_a_notebook_takes_the_place_of_the_first(shapes: Registry) -> None:
    cell = "def mine(): return {}"
    for number in (1, 2):
        space: dict[str, Callable[[], int]] = {}
        exec(cell.format(number), {"__name__": "__main__"}, space)
        shapes.register("mine")(space["mine"])
    assert shapes.build("mine", {}) == 2


def test_a_builder_that_fails_says_where(shapes: Registry) -> None:
    shapes.register("broken")(lambda: {}["none"])
    with pytest.raises(ValueError, match=r"shape 'broken' failed: KeyError: 'none' .*test_plugins"):
        shapes.build("broken", {})

    def empty() -> None:
        raise ValueError("the box is empty")

    shapes.register("empty")(empty)
    with pytest.raises(ValueError, match=r"^the box is empty$"):
        shapes.build("empty", {})


def test_types_that_only_checkers_import_are_no_hindrance(shapes: Registry) -> None:
    def later(*, side: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
        return int(side)

    shapes.register("later")(later)
    assert shapes.build("later", {"side": 4}) == 4


def test_an_installed_plugin_loads_when_a_name_is_not_known(
    shapes: Registry, tmp_path: Path
) -> None:
    install(
        tmp_path,
        "fine",
        "plugin_fine",
        "from tests.io import test_plugins\ntest_plugins.loaded.append('fine')\n",
    )
    sys.path.append(str(tmp_path))
    loaded.clear()
    assert shapes.knows("box")
    assert loaded == []
    assert not shapes.knows("ball")
    assert not shapes.knows("cube")
    assert loaded == ["fine"]  # once


loaded: list[str] = []


def test_an_installed_plugin_that_fails_names_its_distribution(
    shapes: Registry, tmp_path: Path
) -> None:
    install(tmp_path, "broken", "plugin_broken", "import plugin_none\n")
    install(tmp_path, "whole", "plugin_whole", "")
    sys.path.append(str(tmp_path))
    with pytest.raises(UnknownNameError) as error:
        shapes.check("ball", {})
    assert "unknown shape 'ball'; known shapes: box; the plugin 'broken' of broken 1.2 can" in str(
        error.value
    )
    assert "ModuleNotFoundError: No module named 'plugin_none'" in str(error.value)
    assert "plugin_whole" in sys.modules
    with pytest.warns(UserWarning, match="'broken' of broken 1.2"):
        shapes.names()
    assert len(load_installed()) == 1


def test_a_file_is_imported_once_and_finds_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "plugin_near.py").write_text("SIDE = 3\n")
    (tmp_path / "plugin_file.py").write_text("from plugin_near import SIDE\n")
    module = import_plugin(f"{tmp_path}/plugin_file.py")
    assert module.SIDE == 3
    assert import_plugin(f"{tmp_path}/plugin_file.py") is module
    assert sys.modules["plugin_file"] is module  # as processes that read images look for it


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("no_such_package.faces", "there is no module 'no_such_package' for the plugin"),
        ("json.faces", "there is no module 'json.faces'"),
        ("my-module", "plugin 'my-module' must be the name of a module"),
        ("", "plugin '' must be the name of a module"),
        ("FOLDER/none.py", "none.py' must be a .py file; there is none"),
        ("FOLDER/json.py", "json.py' has the name of another module"),
        ("FOLDER/sys.py", "sys.py' has the name of another module"),
        ("FOLDER/a.b.py", "a.b.py' must have a name without dots"),
        ("FOLDER/plugin_syntax.py", "cannot be imported: SyntaxError"),
        ("FOLDER/plugin_dies.py", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("FOLDER/plugin_needs.py", "ModuleNotFoundError: No module named 'plugin_none'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(
    tmp_path: Path, plugin: str, message: str
) -> None:
    files = {"json": "", "sys": "", "a.b": "", "plugin_syntax": "def", "plugin_dies": "1 / 0"}
    for name, code in {**files, "plugin_needs": "import plugin_none"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ValueError) as error:
        import_plugin(plugin.replace("FOLDER", str(tmp_path)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin_twin.py").write_text("")
    import_plugin(f"{tmp_path}/one/plugin_twin.py")
    with pytest.raises(ValueError, match=r"name of another module, '.*one/plugin_twin\.py'"):
        import_plugin(f"{tmp_path}/two/plugin_twin.py")
