"""``glm verify MODEL``: compare a model's files with what is known of their sizes and contents.

Also what ``--verify`` and ``glm doctor --model`` call (`verify_files`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from glm_core.cli.options import (
    add_setting_options,
    make_command_parser,
    print_json,
    print_notice,
    print_table,
)
from glm_core.config import load_settings
from glm_core.errors import CheckpointError, ModelNotFoundError
from glm_core.plugins import get_default_host
from glm_core.routing import resolve_settings

from .checksums import Checksums, KnownFile, find_checksums, hash_file, is_weights, write_checksums
from .model_files import CHECKSUMS, WEIGHT_FORMS, list_model_files

EXIT_DAMAGED = 2
_MAX_HEADER_BYTES = 10**8  # of a safetensors file, as its own library has it
_MAX_INDEX_BYTES = 2**26

Verdict = Literal["ok", "size", "unknown", "damaged", "missing"]
_MEANINGS: dict[Verdict, str] = {
    "ok": "its hash is the known one",
    "size": "its size is right; no hash is known",
    "unknown": "nothing is known of it",
}
FAULTS: tuple[Verdict, ...] = ("damaged", "missing")


@dataclass(frozen=True)
class FileCheck:
    """What was found about one file."""

    name: str
    verdict: Verdict
    message: str


def run(arguments: list[str]) -> int:
    """Parse, look at every file, print; the exit status is 2 if one is damaged or missing."""
    parser = make_command_parser("verify", "Check a model's files against their known sizes and hashes.")
    parser.add_argument("model", metavar="MODEL", help="directory (also of an adapter), known name or hub id")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"check nothing; write {CHECKSUMS} of the files as they are now",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_setting_options(parser, "revision", "hub", "offline")
    parsed = parser.parse_args(arguments)
    overrides = {name: getattr(parsed, name) for name in ("model", "revision", "hub", "offline")}
    path = resolve_settings(get_default_host(), load_settings(overrides)).path
    if path is None:
        raise ModelNotFoundError(f"model {parsed.model!r} has no files on this machine")
    if parsed.write:
        print(_write_list(path))
        return 0
    checks = []
    for check in verify_path(path):
        checks.append(check)
        if not parsed.json and check.verdict in FAULTS:
            print_notice(f"{check.name}: {check.message}")  # at once, because the rest may take minutes
    if parsed.json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("file", "verdict", ""), [(check.name, check.verdict, check.message) for check in checks])
        print(summarize(path, checks))
    return EXIT_DAMAGED if any(check.verdict in FAULTS for check in checks) else 0


def verify_files(path: Path) -> str:
    """Compare a model's files with what is known of them, hashes included.

    Args:
        path: the directory of a model or an adapter, or the one file that a model is.

    Returns:
        A sentence that says what was compared.

    Raises:
        CheckpointError: a file is damaged or missing; names the first and says how many more.
    """
    checks = list(verify_path(path))
    faults = [check for check in checks if check.verdict in FAULTS]
    if faults:
        more = f" ({len(faults) - 1} more: glm verify {path})" if len(faults) > 1 else ""
        raise CheckpointError(f"{path}: {faults[0].name}: {faults[0].message}{more}")
    return summarize(path, checks)


def summarize(path: Path, checks: Iterable[FileCheck]) -> str:
    """Return one sentence about all checks of a model."""
    verdicts = [check.verdict for check in checks]
    faults = sum(verdict in FAULTS for verdict in verdicts)
    if faults:
        return f"{path}: {faults} of {len(verdicts)} files are damaged or missing"
    hashed = verdicts.count("ok")
    if not hashed:
        return (
            f"{path}: no hashes are known for these {len(verdicts)} files, so only sizes could be compared; "
            "glm verify --write keeps the hashes of files that you know to be good"
        )
    rest = len(verdicts) - hashed
    return f"{path}: {hashed} files are as they should be" + (f"; of {rest} no hash is known" if rest else "")


def verify_path(path: Path) -> Iterator[FileCheck]:
    """Yield what is found about each file of a model, in the order of their names.

    Args:
        path: see `verify_files`.

    Raises:
        CheckpointError: there is no file of a model, or the list of checksums is damaged.
    """
    directory = path if path.is_dir() else path.parent
    checksums = find_checksums(directory) or Checksums("", {})
    names = set(list_model_files(directory)) | set(checksums.files) | _list_indexed(directory)
    if not path.is_dir():
        names = {path.name}
    if not names:
        raise CheckpointError(f"{path} holds no files of a model")
    for name in sorted(names):
        yield _check_file(directory, name, checksums.files.get(name, KnownFile()))


def _check_file(directory: Path, name: str, known: KnownFile) -> FileCheck:
    path = directory / name
    if not path.is_file():
        return FileCheck(name, "missing", f"{path} is missing: download or copy it again")
    try:
        size = path.stat().st_size
        if known.size is not None and size != known.size:
            return FileCheck(
                name, "damaged", _format_damage(path, f"{size:,} bytes instead of {known.size:,}")
            )
        reason = find_structural_damage(path)
        if reason:
            return FileCheck(name, "damaged", _format_damage(path, reason))
        if not known.algorithm:
            verdict: Verdict = "size" if known.size is not None or is_weights(name) else "unknown"
            return FileCheck(name, verdict, _MEANINGS[verdict])
        found = hash_file(path, known.algorithm)
    except OSError as error:  # a disk that fails says so while it is read
        return FileCheck(
            name, "damaged", _format_damage(path, f"it cannot be read: {error.strerror or error}")
        )
    if found != known.digest:
        return FileCheck(
            name, "damaged", _format_damage(path, f"its {known.algorithm} is {found}, not {known.digest}")
        )
    return FileCheck(name, "ok", _MEANINGS["ok"])


def _format_damage(path: Path, reason: str) -> str:
    """Return the sentence for a file that is not what it was."""
    if is_weights(path.name):
        # A link leads into a hub's cache, which fetches again only what is not there.
        return f"{reason}; delete {path.resolve()} and download or copy it again"
    return f"{reason}; if you changed {path.name} yourself, glm verify --write takes it as right"


def find_structural_damage(path: Path) -> str:
    """Return why a weight file cannot be whole, told from its own table of contents; empty if it can be.

    Nothing but the table is read. Of a torch file from before version 1.6 nothing can be told.
    """
    if path.suffix == ".safetensors":
        return _check_safetensors(path)
    if path.suffix == ".bin":
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return ""
        try:
            with zipfile.ZipFile(path):
                return ""
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            return f"its table of contents is damaged or cut off ({error})"
    return ""


def _check_safetensors(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            return f"its table of contents should have {length:,} bytes, and the file has {size:,}"
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "its table of contents is not readable"
    return "" if size == expected else f"{size:,} bytes instead of the {expected:,} that its table asks for"


def _list_indexed(directory: Path) -> set[str]:
    """Return the weight files that an index in the directory names, as far as it can be read."""
    names: set[str] = set()
    for form in WEIGHT_FORMS:
        index = directory / form.index
        try:
            if index.is_file() and index.stat().st_size <= _MAX_INDEX_BYTES:
                found = json.loads(index.read_text("utf-8"))["weight_map"].values()
                names |= {name for name in found if isinstance(name, str) and name == Path(name).name}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a damaged index is a fault of opening the model, where it is explained
    return names


def _write_list(path: Path) -> Path:
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; --write takes the directory of a model or an adapter")
    if not list_model_files(path):
        raise CheckpointError(f"{path} holds no files of a model")
    try:
        return write_checksums(path)
    except OSError as error:
        raise CheckpointError(f"{path / CHECKSUMS} cannot be written: {error.strerror or error}") from error
