from collections.abc import Iterator
from pathlib import Path

import pytest

from centerarc.models import backbone as registry
from tests.training.helpers import register_tiny, write_faces


@pytest.fixture(autouse=True)
def _tiny() -> Iterator[None]:
    register_tiny()
    yield
    del registry._BUILDERS["tiny"]


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))
