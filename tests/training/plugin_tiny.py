"""Makes the model of these tests known to a process that is not theirs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from tests.training.helpers import register_tiny

register_tiny()
