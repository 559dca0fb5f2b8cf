"""Record the numbers that tests/golden holds, in place of the old ones.

    python -m scripts.golden [PATTERN ...]

Run it only when numbers are meant to change, and say in the commit which and why. With patterns
such as `trainer/*` only the runs of that name are recorded; `default-center-term` stands for all
whose loss has the center term of shared centers in unit space. The other runs are made too and
must still give their old numbers to the last bit, or nothing is written.
"""

import argparse
import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.distributed.pool import Pool
from tests.golden import record
from tests.golden.runs import all_runs, make_runs


def main() -> None:
    """Make the runs, check those that must not change, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    patterns = parser.parse_args().patterns
    runs = all_runs()
    wanted = {
        name
        for name, run in runs.items()
        if not patterns
        or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        or (run.uses_default_center_term and "default-center-term" in patterns)
    }
    if not wanted:
        sys.exit(f"no run is named {' or '.join(patterns)}; the names: {', '.join(runs)}")
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Path(folder))
        try:
            numbers = make_runs(pool)
        finally:
            pool.kill()
    environment = record.environment()
    if patterns:
        _check_rest(record.read(), environment, numbers, wanted)
    entries = {
        name: {
            "default_center_term": run.uses_default_center_term,
            **numbers[name].to_json(),
        }
        for name, run in runs.items()
    }
    record.write({"environment": environment, "runs": entries})
    print(f"recorded {len(wanted)} of {len(runs)} runs in {record.PATH}")


def _check_rest(
    recorded: dict[str, Any],
    environment: dict[str, str],
    numbers: dict[str, record.Numbers],
    wanted: set[str],
) -> None:
    """Exit unless all runs but the wanted ones are as recorded."""
    if other := record.other_environment(environment, recorded["environment"]):
        sys.exit(f"some runs can be recorded only where the others were; here {other}")
    rest = numbers.keys() - wanted
    if rest != recorded["runs"].keys() - wanted:
        sys.exit("runs were added or removed; record them too, by name")
    changed = []
    for name in sorted(rest):
        old = record.Numbers.from_json(recorded["runs"][name])
        changed += [f"{name}: {line}" for line in record.differences(numbers[name], old)]
    if changed:
        sys.exit("\n".join(["runs that should not change have changed; nothing written", *changed]))


if __name__ == "__main__":
    main()
