"""Build hook: puts the native kernels into the wheel where a C++ compiler is found.

Without a compiler the installation succeeds all the same; the backend then uses torch's own kernels
and says so in ``glm devices``.
"""

from __future__ import annotations

import platform
import runpy
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "_kernels.so"


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles ``native/`` for a wheel, or into the source tree for an editable installation."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library and tell hatchling to pack it; on failure leave a pure wheel and a warning."""
        self._folder = ""
        if self.target_name != "wheel":
            return
        builder = runpy.run_path(str(Path(self.root, "native", "build.py")))
        inside = Path(self.root, "src", "glm_backend_cpu", LIBRARY)
        editable = version == "editable"
        if not editable:
            self._folder = tempfile.mkdtemp()
        library = inside if editable else Path(self._folder, LIBRARY)
        try:
            levels = builder["build"](library)
        except (builder["BuildError"], OSError) as error:
            if editable:
                inside.unlink(missing_ok=True)  # an old one would not fit these sources
            self.app.display_warning(f"glm-backend-cpu: no native kernels: {error}")
            return
        self.app.display_info(f"glm-backend-cpu: native kernels for {', '.join(levels)}")
        if not editable:
            build_data["force_include"][str(library)] = f"glm_backend_cpu/{LIBRARY}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{make_platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built outside the source tree."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def make_platform_tag() -> str:
    """Return the wheel tag of this machine; a universal Python builds for its own processor only."""
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")
