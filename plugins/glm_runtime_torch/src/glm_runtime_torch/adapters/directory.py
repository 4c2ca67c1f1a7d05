"""Reading what an adapter's directory holds: where the adapter is, its kind, and what its files say.

A directory holds the prefix encoder's tensors under the names that the original trainer gave them, alone or
among all the weights of a model. Our own trainer adds ``glm_adapter.json``; without it all settings are read
off the shapes. Every caller starts with `open_adapter`, which looks at the directory once, and works on the
record that it returns, so that no rule is checked twice or in two ways.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from glm_hub.model_files import CONFIG, find_weight_form
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.confinement import check_inside, pin_file
from ..checkpoints.json_file import read_json
from ..checkpoints.reader import Checkpoint
from ..checkpoints.record_file import format_value
from ..network.empty_weights import build_without_weights
from ..network.prefix_encoder import PrefixEncoder
from .files import CONFIG_FILE, AdapterConfig, read_adapter_config
from .foreign import CHECKPOINT_NAME, explain_no_prefix, explain_no_weights, is_peft

# How the original and other tools call the sizes of a model, in a config.json beside the weights.
PUBLISHED_SIZES = ("num_layers", "num_attention_heads", "hidden_size", "multi_query_group_num", "kv_channels")
# Integers and 8-bit floats need scales that no adapter has: taken as they are, they would be noise.
PREFIX_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_EMBEDDING = "embedding.weight"
_ENCODER = "prefix_encoder."
_log = logging.getLogger("glm")


@dataclass(frozen=True)
class PrefixTensors:
    """The tensors of a prefix encoder in a checkpoint: where they are and their shapes; no value is read yet.

    Attributes:
        checkpoint: an adapter's, or that of a model that has a prefix among its weights.
        start: stands in front of the encoder's own parameter names.
        pre_seq_len: positions of the prefix.
        prefix_projection: whether a two-layer network makes the keys and values.
        row_size: elements of an embedding row.
        kv_size: elements of all keys and values of one position.
        inner_size: width inside the two-layer network; ``row_size`` where there is none.
    """

    checkpoint: Checkpoint
    start: str
    pre_seq_len: int
    prefix_projection: bool
    row_size: int
    kv_size: int
    inner_size: int

    def load(
        self,
        build: Callable[[], PrefixEncoder],
        model: str,
        explain: Callable[[PrefixEncoder], str] = lambda _: "",
    ) -> PrefixEncoder:
        """Return an encoder with the stored weights; shapes and dtypes are checked before memory is taken.

        Args:
            build: makes an encoder of the model's sizes; called where weights take no memory.
            model: what the encoder is built for, such as "this chatglm model", for error messages.
            explain: what to add where a shape differs.

        Returns:
            The encoder, in float32 on the CPU, frozen.

        Raises:
            AdapterError: a tensor is missing, of another shape, of no floating-point dtype, or not finite.
        """
        with build_without_weights():
            encoder = build()
        parameters = encoder.state_dict()
        for name, parameter in parameters.items():
            self._check(name, tuple(parameter.shape), model, lambda: explain(encoder))
        state = {name: self._read(name) for name in parameters}
        # assign: the parameters are on the meta device, where nothing can be copied to
        encoder.load_state_dict(state, assign=True)
        return encoder.eval().requires_grad_(False)

    def _check(self, name: str, shape: tuple[int, ...], model: str, explain: Callable[[], str]) -> None:
        stored, directory = f"{self.start}{name}", self.checkpoint.directory
        if stored not in self.checkpoint:
            raise AdapterError(
                f"{directory}: tensor {stored} is missing; the adapter is incomplete, copy it again"
            )
        facts = self.checkpoint.get_facts(stored)
        if facts.shape != shape:
            raise AdapterError(
                f"{directory}: {name} has shape {list(facts.shape)}, {model} needs {list(shape)}"
                f"{explain()}; the adapter was trained on another model"
            )
        if facts.dtype not in PREFIX_DTYPES:
            raise AdapterError(
                f"{directory}: {stored} is stored as {str(facts.dtype).removeprefix('torch.')}, a prefix is "
                "float32, float16 or bfloat16; save the adapter in one of them"
            )

    def _read(self, name: str) -> Tensor:
        stored = f"{self.start}{name}"
        try:
            value = self.checkpoint.read(stored, dtype=torch.float32, device=torch.device("cpu"))
        except CheckpointError as error:
            raise AdapterError(f"adapter: {error}") from error
        if not bool(torch.isfinite(value).all()):
            raise AdapterError(
                f"{self.checkpoint.directory}: {stored} holds values that are not finite; its training "
                "diverged. Use an earlier checkpoint"
            )
        return value


@dataclass(frozen=True)
class AdapterDirectory:
    """What an adapter's directory holds.

    Attributes:
        path: where the files are: the directory that was named, or its newest checkpoint.
        prefix: the encoder's tensors.
        stated: what our own file says; ``None`` for an adapter of the original trainer.
        published: the ``config.json`` beside the weights; empty if there is none.
    """

    path: Path
    prefix: PrefixTensors
    stated: AdapterConfig | None
    published: Mapping[str, Any]

    def require(self, *, pre_seq_len: int | None = None, prefix_projection: bool | None = None) -> None:
        """Refuse an adapter with other settings than its user says; ``None`` accepts any.

        Raises:
            AdapterError: naming the setting and both values.
        """
        for name, found, wanted in (
            ("pre_seq_len", self.prefix.pre_seq_len, pre_seq_len),
            ("prefix_projection", self.prefix.prefix_projection, prefix_projection),
        ):
            if wanted is not None and found != wanted:
                raise AdapterError(
                    f"{self.path} was trained with {name} {found}, but {name} {wanted} is asked for; "
                    f"pass {name}={found}"
                )


def open_adapter(directory: Path, inside: Path | None = None) -> AdapterDirectory:
    """Look at an adapter's directory; names and shapes are read, no weights.

    Args:
        directory: of an adapter, of a whole checkpoint with a prefix, or of a training job, whose newest
            checkpoint is taken.
        inside: read no file that is really elsewhere; ``None`` = anywhere.

    Raises:
        AdapterError: it is missing or damaged, holds no prefix, or its files contradict one another.
        OutsideFolderError: a file to read is not inside ``inside``.
    """
    try:
        path = _find_weights(directory, inside)
        stated = read_adapter_config(path, inside)
        published = _read_published_config(path, inside)
        checkpoint = Checkpoint(path, inside=inside)
    except CheckpointError as error:
        raise AdapterError(f"adapter: {error}") from error
    except OSError as error:  # of looking at names: no permission, a disk that is gone, a name too long
        raise AdapterError(f"adapter {directory} cannot be read: {error.strerror or error}") from error
    prefix = find_prefix(checkpoint)
    if prefix is None:
        raise AdapterError(explain_no_prefix(path, set(checkpoint), published))
    if stated is not None:
        _compare_settings(path, stated, prefix)
    return AdapterDirectory(path, prefix, stated, published)


def find_prefix(checkpoint: Checkpoint) -> PrefixTensors | None:
    """Return the prefix encoder stored in a checkpoint, or ``None`` if it has none.

    Raises:
        AdapterError: its embedding is no table, or there are several encoders.
    """
    start = _find_name_start(checkpoint)
    if start is None:
        return None
    shape = checkpoint.get_facts(f"{start}{_EMBEDDING}").shape
    if len(shape) != 2 or not shape[0]:
        raise AdapterError(
            f"{checkpoint.directory}: {start}{_EMBEDDING} has shape {list(shape)}, a row for each of "
            "the prefix's positions is expected; the adapter is damaged, copy it again"
        )
    inner, outer = (
        checkpoint.get_facts(name).shape[:1] if name in checkpoint else ()
        for name in (f"{start}trans.0.weight", f"{start}trans.2.weight")
    )
    return PrefixTensors(
        checkpoint,
        start,
        pre_seq_len=shape[0],
        prefix_projection=any(name.startswith(f"{start}trans.") for name in checkpoint),
        row_size=shape[1],
        kv_size=outer[0] if outer else shape[1],
        inner_size=inner[0] if inner else shape[1],
    )


def _find_weights(directory: Path, inside: Path | None) -> Path:
    """Return the directory itself if it holds weights, else its newest ``checkpoint-N`` that does."""
    if directory.is_file():
        raise AdapterError(f"adapter {directory} is a file; pass the directory that holds it")
    if not directory.is_dir():
        raise AdapterError(f"adapter directory {directory} does not exist; pass --adapter NAME=DIRECTORY")
    if inside is not None:
        check_inside(directory, inside)
    if find_weight_form(directory) is not None:
        return directory
    steps = {
        int(match[1]): path
        for path in directory.iterdir()
        if (match := CHECKPOINT_NAME.fullmatch(path.name))
        and path.is_dir()
        and (find_weight_form(path) or is_peft(path))
    }
    newest = steps[max(steps)] if steps and not is_peft(directory) else directory
    if inside is not None:
        check_inside(newest, inside)
    if find_weight_form(newest) is None:
        raise AdapterError(explain_no_weights(newest, inside))
    _log.warning(
        "glm: adapter %s holds no weights itself; taking its newest checkpoint, %s", directory, newest.name
    )
    return newest


def _compare_settings(path: Path, stated: AdapterConfig, prefix: PrefixTensors) -> None:
    for name in ("pre_seq_len", "prefix_projection"):
        in_file, in_weights = getattr(stated, name), getattr(prefix, name)
        if in_file != in_weights:
            raise AdapterError(
                f"{path}: {CONFIG_FILE} says {name} {in_file}, the weights have {in_weights}; "
                "the files are of different adapters"
            )


def _read_published_config(directory: Path, inside: Path | None) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        return {}
    try:
        with pin_file(path, inside) as real:
            return read_json(real)
    except CheckpointError as error:
        # No reason to refuse the adapter, because it only explains errors and names the base model.
        _log.warning("glm: adapter %s: its %s is left out: %s", directory, CONFIG, error)
        return {}


def _find_name_start(checkpoint: Checkpoint) -> str | None:
    """Return what stands in front of the encoder's own names, or ``None`` where there is no encoder.

    In a whole model that is ``transformer.prefix_encoder.``; wrappers such as DistributedDataParallel
    (``module.``) and PEFT (``base_model.model.``) put more in front; bare names have nothing.

    Raises:
        AdapterError: there are several encoders.
    """
    starts = [
        name.removesuffix(_EMBEDDING) for name in checkpoint if name.endswith(f"{_ENCODER}{_EMBEDDING}")
    ]
    if len(starts) > 1:
        found = ", ".join(format_value(f"{start}{_EMBEDDING}") for start in sorted(starts)[:3])
        raise AdapterError(
            f"{checkpoint.directory} holds several prefix encoders ({found}); keep only the one to load"
        )
    # The bare name last, because a table of another kind may be called so in a whole model.
    return starts[0] if starts else "" if _EMBEDDING in checkpoint else None
