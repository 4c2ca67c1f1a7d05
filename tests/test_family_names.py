"""The parts that serve every family know none by name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "plugins/glm_runtime_torch/src/glm_runtime_torch"
GENERIC = [
    *(
        path
        for room in ("adapters", "checkpoints", "generation", "model", "network", "quantization")
        for path in (RUNTIME / room).rglob("*.py")
    ),
    *(path for path in ROOT.glob("plugins/glm_ptuning/src/**/*.py") if path.stem != "_load_checkpoint"),
    *ROOT.glob("plugins/glm_backend_*/src/**/*.py"),
    *ROOT.glob("plugins/glm_frontend_*/src/**/*.py"),
]
NAMES = re.compile(r"chat_?glm[23]|glm-?4|CHATGLM|ChatGLM[23]", re.IGNORECASE)
# `_load_checkpoint` is the original's call, which returns ChatGLM-6B as a transformers model.
# What a sentence for people, a default or a docstring may say; code may not.
CODE = re.compile(r'"""[\s\S]*?"""|#[^\n]*|f?"[^"\n]*"')


def test_no_code_of_the_generic_parts_names_a_family() -> None:
    """Engine, quantiser, trainer, backends and frontends work for a family that is added tomorrow."""
    assert len(GENERIC) >= 120
    named = {
        str(path.relative_to(ROOT)): names
        for path in GENERIC
        if (names := NAMES.findall(CODE.sub("", path.read_text("utf-8"))))
    }
    assert named == {}
