"""Everything that must hold before a change lands: python scripts/check.py [--coverage] [PYTEST ARGUMENT ...]

Formatting, lint, types of sources and tests, the contracts between the packages, and the tests. Stops at the
first that fails. Arguments go to pytest: ``python scripts/check.py tests/glm_core -k plugins``.

With ``--coverage``, or where ``CI=true`` is set, the tests also tell which lines and branches of our packages
they did not run, and the whole suite fails if that is more than the floor allows. It is not always done: on
Python 3.11 tests of pure Python take half as long again and those of models a fifth (Python's cheap way,
`sys.monitoring`, came later). What runs in processes of its own is not counted: measuring there makes every
start slower, and hardly anything runs only there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COVERAGE = "--coverage"
FLOOR_PERCENT = 90
"""Lines and branches that the whole suite must run; raise it when coverage has grown."""


def main(arguments: list[str]) -> int:
    """Run every check in turn; the exit status of the first that fails."""
    python = [sys.executable, "-m"]
    pytest_arguments = [argument for argument in arguments if argument != COVERAGE]
    # A module stays on one worker, which builds its models and servers once; what takes longest begins first
    # (tests/conftest.py), so that the workers end together.
    tests = ["pytest", "-n", str(os.cpu_count() or 1), "--dist", "loadscope", "--no-loadscope-reorder"]
    if COVERAGE in arguments or os.environ.get("CI") == "true":
        tests += ["--cov", "--cov-report=term"]
        if not pytest_arguments:
            tests += [f"--cov-fail-under={FLOOR_PERCENT}"]
    checks = {
        "format": [*python, "ruff", "format", "--check", "."],
        "lint": [*python, "ruff", "check", "."],
        "types": [*python, "mypy"],
        "types of the tests": [*python, "mypy", "tests"],
        "imports": [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        "tests": [*python, *tests, *pytest_arguments],
    }
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status:
            print(f"== {name} failed", flush=True)
            return status
    print("== all checks passed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
