"""``glm plugin new KIND NAME``: write a complete package for a new plugin."""

from __future__ import annotations

from pathlib import Path

from glm_core.cli.options import make_command_parser
from glm_core.config import expand
from glm_core.language import get_language
from glm_core.plugins import get_default_host

from .names import KINDS, PackageNames, refuse_taken
from .writing import write_package


def run(arguments: list[str]) -> int:
    """Write the package and say what to type next; never touches the network."""
    parser = make_command_parser("plugin", "Write a complete package for a new plugin.")
    actions = parser.add_subparsers(dest="action", metavar="new", required=True)
    new = actions.add_parser(
        "new", description="Write a complete package for a new plugin.", allow_abbrev=False, help="write one"
    )
    new.add_argument("kind", choices=KINDS, help="what it will be")
    new.add_argument("name", metavar="NAME", help="the package's name, such as glm-backend-npu")
    new.add_argument("--directory", metavar="DIR", help="where to write it; new or empty (./NAME)")
    parsed = parser.parse_args(arguments)
    names = PackageNames.derive(parsed.kind, parsed.name)
    directory = expand(parsed.directory) if parsed.directory else Path(names.distribution)
    refuse_taken(names, get_default_host())
    files = write_package(names, directory)
    print(_report(directory, len(files)))
    return 0


def _report(directory: Path, count: int) -> str:
    place = directory if directory.is_absolute() else Path(".") / directory
    shown = str(place) if place.is_absolute() else f"./{place.as_posix()}"
    quoted = f'"{shown}[test]"'
    if get_language() == "zh":
        head, then = f"已写入 {shown}（{count} 个文件）", "下一步："
    else:
        head, then = f"wrote {shown} ({count} files)", "next:"
    return "\n".join([head, then, f"  pip install -e {quoted}", f'  pytest "{shown}"'])
