"""Which family a model is of, told from the small files of its directory and without torch.

Core asks for this before it decides anything, so every command pays for what is imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core.errors import CheckpointError, ConfigError
from glm_core.records import ModelMatch, ModelSource

from ..checkpoints.integrity import has_file
from ..checkpoints.json_file import read_json
from .names import NATIVE_FAMILIES
from .signs import find_signs

KIND = "torch"
"""The kind of all models of this runtime, which backends name in their descriptions."""

RECORDED = "glm_family"
"""Key of ``config.json`` in which a copy says what its original was taken for, where no file tells."""

GLM4_VOCABULARY = 151552
_OBJECTS = "glm_runtime_torch.huggingface.modeling"  # of which a model in memory may be


@dataclass(frozen=True)
class Recognition:
    """What a directory's model is.

    Attributes:
        family: its name.
        reason: why, as a clause.
        other: the family that it might be as well, where nothing certain was found; else empty.
    """

    family: str
    reason: str
    other: str = ""

    @property
    def doubt(self) -> str:
        """What to tell a person where this is a guess; empty where it is none."""
        if not self.other:
            return ""
        return (
            f"its files fit {self.family} and {self.other}; taken for {self.family}, because {self.reason}. "
            f"If that is wrong, say --family {self.other}"
        )


def identify(source: ModelSource) -> ModelMatch | None:
    """Return what a source is, or ``None`` if this runtime does not know it.

    Raises:
        CheckpointError: ``config.json`` is damaged.
        ConfigError: it cannot be of the family that the user names.
    """
    if source.model is not None:
        module = sys.modules.get(_OBJECTS)  # who has such an object has imported its class
        if module is None or not isinstance(source.model, module.ChatGLMForConditionalGeneration):
            return None
        return ModelMatch(KIND, f"a {type(source.model).__name__} in memory")
    if source.path is None or not has_file(source.path / "config.json"):
        return None
    found = recognize(read_json(source.path / "config.json"), source.path, source.family)
    if found is None:
        return None
    return ModelMatch(KIND, found.doubt or f"it is of the family {found.family}: {found.reason}")


def recognize(
    config: Mapping[str, Any], directory: Path | None = None, wanted: str = "auto"
) -> Recognition | None:
    """Return the family of a model, or ``None`` if it is none of ours.

    Args:
        config: the content of its ``config.json``.
        directory: where its other files are, which tell apart what ``config.json`` does not.
        wanted: the family that the user names; ``auto`` = whichever it is.

    Raises:
        CheckpointError: a copy records a family that it cannot be of.
        ConfigError: it cannot be of the wanted family; names those that it can be of.
    """
    possible = _list_possible(config)
    if not possible:
        return None
    where = "config.json" if directory is None else f"{directory / 'config.json'}"
    if wanted != "auto":
        if wanted not in possible:
            raise ConfigError(
                f"{where} does not fit --family {wanted}; it can be {' or '.join(possible)}. "
                "Leave --family out, or choose another --model."
            )
        return Recognition(wanted, "--family says so")
    recorded = config.get(RECORDED)
    if recorded is not None:
        if recorded not in possible:
            raise CheckpointError(
                f"{where}: {RECORDED} is {json.dumps(recorded)[:80]}, {' or '.join(possible)} is expected; "
                "correct it, or quantise the original again."
            )
        return Recognition(recorded, f"config.json has {RECORDED} {recorded}")
    if len(possible) == 1:
        return Recognition(possible[0], f"config.json has model_type {config['model_type']}")
    if config.get("padded_vocab_size") == GLM4_VOCABULARY:
        # GLM-4-9B as first published: ChatGLM3's network with a larger vocabulary
        return Recognition("glm4-9b", f"config.json has padded_vocab_size {GLM4_VOCABULARY}")
    return _weigh_signs(config, directory)


def record_family(config: dict[str, Any], directory: Path, family: str) -> None:
    """Write into a copy's configuration what its original was taken for, where the copy's files do not tell.

    Asked of the copy's own files: what told the original's family may have been code, which is not copied.

    Args:
        config: the content of its ``config.json``; changed in place.
        directory: where its other files are.
        family: what the original was taken for.
    """
    config.pop(RECORDED, None)  # of an original that is a copy itself, and that --family took for another
    found = recognize(config, directory)
    if found is None or found.doubt or found.family != family:
        config[RECORDED] = family


def _list_possible(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the families whose networks have the keys of a configuration."""
    model_type = config.get("model_type")
    if model_type in NATIVE_FAMILIES:
        return (str(model_type),)
    if model_type != "chatglm":
        return ()
    # The later models have the same model_type; only v1 has "inner_hidden_size".
    if "inner_hidden_size" in config:
        return ("chatglm",)
    return ("chatglm2", "chatglm3", "glm4-9b") if "multi_query_group_num" in config else ()


def _weigh_signs(config: Mapping[str, Any], directory: Path | None) -> Recognition:
    """Tell ChatGLM3 from 2, whose configurations have the same keys and whose vocabularies are the same file.

    What only one of them has decides. Where nothing of it is there, or it disagrees, the first sign is taken
    and the other family named.
    """
    signs = list(find_signs(config, directory))
    certain = [sign for sign in signs if sign.is_certain]
    chosen = (certain or signs)[0]
    if len({sign.family for sign in certain}) == 1:
        return Recognition(chosen.family, chosen.reason)
    return Recognition(
        chosen.family, chosen.reason, "chatglm2" if chosen.family == "chatglm3" else "chatglm3"
    )
