"""Build a wheel of every distribution: python scripts/build_wheels.py [FOLDER] [--no-isolation]

glm is not on a package index yet. With ``PIP_FIND_LINKS`` set to that folder (``dist`` unless it is given),
every ``pip install glm-…`` of the documentation works from a clone as it will work from the index.

``--no-isolation`` builds with the tools of this environment (hatchling) instead of fetching them for each
distribution; that needs no network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(arguments: list[str]) -> int:
    """Build all wheels and say how to use them; the exit status of pip if it failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--no-isolation", action="store_true", help="build with this environment's tools")
    options = parser.parse_args(arguments)
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    projects = list_projects()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if options.no_isolation:
        command += ["--no-build-isolation", "--no-index"]
    status = subprocess.run([*command, "-w", str(folder), *map(str, projects)], check=False).returncode
    if status:
        return status
    print(f"{len(projects)} wheels are in {folder}; to install from them:")
    print(f"export PIP_FIND_LINKS={folder}")
    return 0


def list_projects() -> list[Path]:
    """Return the directory of every distribution: the core, the packages beside it, the examples."""
    plugins = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    examples = sorted(path.parent for path in (ROOT / "examples").glob("*/pyproject.toml"))
    return [ROOT, *plugins, *examples]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
