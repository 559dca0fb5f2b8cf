"""What users bring from outside: names that they register, and how their modules are found.

A plugin is a module that registers something when it is imported. Installed distributions name
theirs as entry points of the group `centerarc.plugins`, which load when a name is not known; a
configuration or a command names others. Nothing else imports code: no weights file does.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from centerarc.io.files import expanded_path

GROUP = "centerarc.plugins"
# How a user makes a name known.
FOR_YOUR_OWN = "for one of your own, set plugins to the module or .py file that registers it"
T = TypeVar("T", bound=Callable[..., Any])
# What an option may be given as, by the annotation of the argument.
_ACCEPTED: dict[Any, Any] = {float: (float, int), int: int, bool: bool, str: str}


class UnknownNameError(ValueError):
    """A name that nothing is registered under."""


class Registry(dict[str, Callable[..., Any]]):
    """Builders by their names: what one kind of thing may be called.

    A name that is not known is looked for in the installed plugins, once.

    Args:
        kind: What the builders build, for messages: "model".
        given: Arguments that the library gives every builder; a user cannot.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... def square(*, side: int): return side * side
        >>> shapes.build("square", {"side": 3})
        9
    """

    def __init__(self, kind: str, given: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.kind = kind
        self._given = given

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers a class or a function under a name.

        The same definition may be registered again, as by a cell of a notebook that runs twice.

        Raises:
            ValueError: If the name is not a text or belongs to something else.
        """

        def registered(builder: T) -> T:
            check_name(self.kind, name, self.get(name), builder)
            self[name] = builder
            return builder

        return registered

    def knows(self, name: str) -> bool:
        """Whether a name is registered, here or by an installed plugin."""
        if name not in self:
            load_installed()
        return name in self

    def names(self) -> list[str]:
        """Returns all names, those of installed plugins too, sorted; warns of broken plugins."""
        for problem in load_installed():
            warnings.warn(problem, stacklevel=3)
        return sorted(self)

    def check(self, name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
        """Returns the builder of a name that takes these options.

        Raises:
            ValueError: If the name or an option is unknown, one is missing or of another type.
        """
        if not self.knows(name):
            close = get_close_matches(name, self, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            known = ", ".join(sorted(self)) or "none"
            problems = "".join(f"; {problem}" for problem in load_installed())
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}; {hint}known {self.kind}s: {known}{problems}; "
                f"{FOR_YOUR_OWN}"
            )
        builder = self[name]
        _check_options(f"{self.kind} {name!r}", parameters_of(builder), options, self._given)
        return builder

    def build(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Calls the builder of a name with the options of a user and `given` by the library.

        Raises:
            ValueError: As `check`; or if the builder fails, which its error is the cause of.
        """
        builder = self.check(name, options)
        try:
            return builder(**given, **options)
        except (ValueError, OSError, ImportError):
            raise  # what the user can mend; the message is the builder's own
        except Exception as error:
            raise ValueError(f"{self.kind} {name!r} failed: {described(error)}") from error


def check_name(kind: str, name: str, before: Any, builder: Any) -> None:
    """Refuses a name that is not text, or that another definition has.

    Raises:
        ValueError: If it is.
    """
    if not isinstance(name, str) or not name or name.strip() != name:
        raise ValueError(f"the name of a {kind} must be a text without blanks around, got {name!r}")
    if before is not None and before is not builder and _definition(before) != _definition(builder):
        raise ValueError(
            f"a {kind} named {name!r} is registered already: {_definition(before)}; "
            f"{_definition(builder)} needs another name"
        )


def _definition(builder: Any) -> str:
    name = getattr(builder, "__qualname__", repr(builder))
    # Functions made in functions share their names.
    made = f" at {id(builder):#x}" if "<" in name else ""
    return f"{getattr(builder, '__module__', '')}.{name}{made}"


def parameters_of(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a class or function, with types where they can be found."""
    try:
        return inspect.signature(builder, eval_str=True).parameters
    except NameError:  # a type that is imported for type checkers only
        return inspect.signature(builder).parameters


def _check_options(
    what: str,
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    given: tuple[str, ...],
) -> None:
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in given
    }
    for option, value in options.items():
        if option in given or not (option in named or any_name):
            known = ", ".join(sorted(named)) or "none"
            raise ValueError(f"{what} has no option {option!r}; its options: {known}")
        wanted: Any = named[option].annotation if option in named else object
        accepted = _ACCEPTED.get(wanted, object)
        # Python takes True for the number 1.
        if not isinstance(value, accepted) or (isinstance(value, bool) and wanted in (float, int)):
            raise ValueError(
                f"option {option} of {what} is {value!r}; it must be of type {wanted.__name__}"
            )
    for option, parameter in named.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"{what} needs the option {option!r}")


def described(error: BaseException) -> str:
    """Returns an error in one line: its type, what it says, and the line of code it comes from."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if last is None:
        return text
    return f"{text} ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})"


# How modules are found.

_installed: list[str] | None = None


def load_installed() -> list[str]:
    """Imports the plugins of installed distributions, once.

    Returns:
        A line for each that failed.
    """
    global _installed
    if _installed is None:
        _installed = []  # a plugin may itself ask for names
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                entry.load()
            except Exception as error:
                place = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
                _installed.append(
                    f"the plugin {entry.name!r}{place} cannot be imported: {described(error)}"
                )
    return _installed


def resolve_plugin(plugin: str, folder: Path) -> str:
    """Returns a plugin's name with the path of a file made absolute, from `folder`."""
    if not is_file(plugin):
        return plugin
    return os.path.abspath(folder / expanded_path(plugin))


def is_file(plugin: str) -> bool:
    """Whether a plugin's name is a path, not the name of a module."""
    return plugin.endswith(".py") or "/" in plugin or os.sep in plugin


def import_plugin(plugin: str) -> ModuleType:
    """Imports a plugin by the name of its module or the path of its file.

    The folder of a file becomes the last one that Python looks for modules in, so that the file
    can import its neighbors, and processes that read images can import the file.

    Args:
        plugin: A name such as "my_package.faces", or a path such as "./my_faces.py".

    Returns:
        The module.

    Raises:
        ValueError: If there is no such module, or importing it fails.
    """
    name = plugin
    if is_file(plugin):
        name = _module_name(Path(plugin))
    elif not all(part.isidentifier() for part in plugin.split(".")):
        raise ValueError(
            f"plugin {plugin!r} must be the name of a module, such as my_package.faces, "
            "or the path of a .py file"
        )
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r} for the plugin {plugin!r}; "
                "install it, add its folder to PYTHONPATH, or give the path of a .py file"
            ) from error
        raise ValueError(f"plugin {plugin!r} cannot be imported: {described(error)}") from error
    except Exception as error:
        raise ValueError(f"plugin {plugin!r} cannot be imported: {described(error)}") from error


def _module_name(path: Path) -> str:
    """Makes a file importable under its own name."""
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"plugin {str(path)!r} must be a .py file; there is none")
    path = path.resolve()
    if "." in path.stem:
        raise ValueError(f"plugin {str(path)!r} must have a name without dots; rename it")
    loaded = sys.modules.get(path.stem)
    folders = [*sys.path, str(path.parent)]
    spec = PathFinder.find_spec(path.stem, folders) if loaded is None else loaded.__spec__
    origin = spec.origin if spec is not None else None
    if path.stem in sys.builtin_module_names or not origin or Path(origin).resolve() != path:
        raise ValueError(
            f"plugin {str(path)!r} has the name of another module, {origin or path.stem!r}; "
            "rename it"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return path.stem
