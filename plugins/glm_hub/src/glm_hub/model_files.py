"""Which files make up a model's directory: the one list for downloading, copying, saving and reading.

A directory holds ``config.json``, weights in one of the `WEIGHT_FORMS`, and companions: tokenizer,
vocabulary, chat template, default sampling, licence. Whatever fetches or writes a model asks here, so that a
copy of a model loads wherever the model did. Python files are in no list: no code of a checkpoint is ever
fetched, copied or run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
CHECKSUMS = "glm_checksums.json"  # sizes and hashes of the files beside it; see `glm_hub.checksums`


@dataclass(frozen=True)
class WeightForm:
    """One way to store weights.

    Attributes:
        single: name of the file that holds all of them.
        index: name of the file that says which shard holds which tensor, where there are several.
        pattern: matches the single file and every shard.
    """

    single: str
    index: str
    pattern: str


SAFETENSORS = WeightForm("model.safetensors", "model.safetensors.index.json", "*.safetensors")
TORCH = WeightForm("pytorch_model.bin", "pytorch_model.bin.index.json", "*.bin")
WEIGHT_FORMS = (SAFETENSORS, TORCH)  # the first that a directory has is read

# Patterns rather than names: a new family brings vocabulary files that nobody here has heard of.
_SETTINGS = (
    *("*.json", "*.model", "*.tiktoken", "*.txt"),  # tokenizer, vocabulary, generation config
    "*.jinja",  # chat templates, of which transformers keeps further ones in a folder
)
_LICENCES = ("*LICENSE*", "*NOTICE*")  # must go where the weights go
# What training leaves beside a model, ours and transformers'. It may be larger than the model, and it
# describes the job that wrote it, not whatever is made of the model.
_TRAINING_STATE = (
    *("trainer_state.json", "training_state.json", "complete.json", "glm_training.json", "*_results.json"),
    *("training_args.bin", "optimizer.bin", "optimizer.safetensors", "scheduler.bin", "rng_state*"),
)
_CODE = ("*.py", "*.pyc", "*.so", "*.sh")

NEEDED = (*(form.pattern for form in WEIGHT_FORMS), *_SETTINGS)
FETCHED = (*NEEDED, *_LICENCES)  # a cache that lacks the licence only is complete all the same
# The checksums are of the files as they were written. A copy has other files, and a download the hub's list.
NEVER_FETCHED = (*_TRAINING_STATE, *_CODE, CHECKSUMS)


def is_companion(name: str) -> bool:
    """Return whether a file belongs to a model beside its configuration and its weights.

    Args:
        name: path inside the model's directory, with ``/``.
    """
    last = name.rpartition("/")[2]
    if last == CONFIG or last in {form.index for form in WEIGHT_FORMS}:
        return False
    return _matches(last, (*_SETTINGS, *_LICENCES)) and not _matches(last, NEVER_FETCHED)


def find_companions(directory: Path) -> list[Path]:
    """Return the companions in a directory and its folders, sorted, relative to the directory.

    Folders are looked into only where transformers puts chat templates (``additional_chat_templates``);
    a training job's ``checkpoint-N`` or ``runs`` are no part of the model.
    """
    found = [*directory.glob("*"), *directory.glob("additional_chat_templates/*.jinja")]
    return sorted(
        path.relative_to(directory)
        for path in found
        if path.is_file() and is_companion(path.relative_to(directory).as_posix())
    )


def list_model_files(directory: Path) -> list[str]:
    """Return all files of a model or an adapter in a directory, sorted, relative to it, with ``/``."""
    found = {path.as_posix() for path in find_companions(directory)}
    for path in directory.iterdir():
        if path.is_file() and _matches(path.name, FETCHED) and not _matches(path.name, NEVER_FETCHED):
            found.add(path.name)
    return sorted(found)


def find_weight_form(directory: Path) -> WeightForm | None:
    """Return the form whose single file or index a directory holds, or ``None`` if it holds no weights."""
    for form in WEIGHT_FORMS:
        if (directory / form.index).is_file() or (directory / form.single).is_file():
            return form
    return None


def list_unwanted_patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Return patterns of what is not fetched of a model's files, although a pattern of `FETCHED` matches it.

    Args:
        names: all files that the model offers; where there are safetensors, the torch form is left out.
    """
    has_safetensors = any(_matches(name, (SAFETENSORS.pattern,)) for name in names)
    return (*NEVER_FETCHED, TORCH.pattern) if has_safetensors else NEVER_FETCHED


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
