"""What this process takes of the machine's memory."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def read_peak_memory(status: Path = STATUS) -> int | None:
    """Return the most memory that was resident at one time so far; ``None`` where nobody says."""
    try:
        # Not getrusage, whose peak on Linux includes that of the program which started this one.
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
