"""The directory beside the destination in which a quantised checkpoint grows until it is complete.

A destination is a whole checkpoint or does not exist, because a half one might load, or fail late, for
somebody else. So the copy grows in ``NAME.partial`` and is renamed when everything is written and was opened
once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
from glm_hub.checksums import hash_file

from glm_core.errors import ConfigError

from ..checkpoints.writer import flush_directory, write_text
from .destination import locate_partial

STATE_FILE = "job.json"
LOCK_FILE = "job.lock"


class PartialCheckpoint:
    """``NAME.partial`` beside the destination: finished shards, and what they were made with.

    As a context manager it keeps other processes out.

    Args:
        destination: final directory; absent or empty.
    """

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.directory = locate_partial(destination)
        self._lock = filelock.FileLock(self.directory / LOCK_FILE)
        self._state: dict[str, Any] = {}

    def __enter__(self) -> PartialCheckpoint:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ConfigError(
                f"another process is writing {self.directory}; wait for it, or choose another destination"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def resume(self, settings: Mapping[str, Any]) -> str:
        """Take up what an earlier job with the same settings left, or begin anew.

        Returns:
            A sentence about what was found; empty if there was nothing.

        Raises:
            ConfigError: the directory holds what no such job wrote.
        """
        found = self._read_state()
        # Through JSON, because that is what the file went through: tuples became lists.
        fits = isinstance(found, dict) and found.get("settings") == json.loads(json.dumps(settings))
        self._state = {"settings": dict(settings), "shards": dict(found["shards"]) if fits else {}}
        damaged = [name for name in self._state["shards"] if not self._is_intact(name)]
        for name in damaged:
            del self._state["shards"][name]
        self._remove_unfinished()
        self._save()
        if found is not None and not fits:
            return f"{self.directory} was begun with other settings or another source; beginning anew"
        if damaged:
            return f"{', '.join(damaged)} in {self.directory} changed since it was written; writing it again"
        if self._state["shards"]:
            return f"going on where {self.directory} ends: {len(self._state['shards'])} files are finished"
        return ""

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of every finished shard, taken when it was written."""
        return dict(self._state["shards"])

    def has(self, shard: str) -> bool:
        """Return whether a shard is finished."""
        return shard in self._state["shards"]

    def mark_finished(self, shard: str) -> None:
        """Note that a shard is complete."""
        flush_directory(self.directory)
        self._state["shards"][shard] = hash_file(self.directory / shard)
        self._save()

    def complete(self) -> None:
        """Give the directory its final name."""
        (self.directory / STATE_FILE).unlink()
        self._lock.release()
        (self.directory / LOCK_FILE).unlink(missing_ok=True)
        flush_directory(self.directory)
        if self.destination.exists():
            self.destination.rmdir()  # checked to be empty
        self.directory.rename(self.destination)
        flush_directory(self.destination.parent)

    def _read_state(self) -> Any:
        try:
            return json.loads((self.directory / STATE_FILE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            others = [path.name for path in self.directory.iterdir() if path.name != LOCK_FILE]
            if others:
                raise ConfigError(
                    f"{self.directory} holds {others[0]}, which is no unfinished job of `glm quantize`; "
                    "move it away, or choose another destination"
                ) from error
            return None

    def _is_intact(self, shard: str) -> bool:
        path = self.directory / shard
        return path.is_file() and hash_file(path) == self._state["shards"][shard]

    def _remove_unfinished(self) -> None:
        keep = {STATE_FILE, LOCK_FILE, *self._state["shards"]}
        for path in self.directory.iterdir():
            if path.name not in keep and path.is_file():
                path.unlink()

    def _save(self) -> None:
        write_text(self.directory / STATE_FILE, json.dumps(self._state, indent=1))
