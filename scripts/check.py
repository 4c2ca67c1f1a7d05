"""Everything that must hold before a change lands: python scripts/check.py [PYTEST ARGUMENT ...]

Formatting, lint, types, the contracts between the packages, and the tests. Stops at the first that
fails. Arguments go to pytest: ``python scripts/check.py tests/glm_core -k plugins``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TYPED = (
    "glm_core",
    *(f"plugins/{path.parent.name}/src" for path in sorted((ROOT / "plugins").glob("*/pyproject.toml"))),
)


def main(pytest_arguments: list[str]) -> int:
    """Run every check in turn; the exit status of the first that fails."""
    python = [sys.executable, "-m"]
    workers = str(os.cpu_count() or 1)
    checks = {
        "format": [*python, "ruff", "format", "--check", "."],
        "lint": [*python, "ruff", "check", "."],
        "types": [*python, "mypy"],
        "imports": [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        "tests": [*python, "pytest", "-n", workers, *pytest_arguments],
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
