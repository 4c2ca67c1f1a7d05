"""Loading an adapter from its files, or saying why it does not fit the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glm_hub.model_files import CONFIG

from glm_core.cleaning import clean_text
from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.reader import Checkpoint
from ..checkpoints.record_file import format_value
from ..families.registry import Family, find_family
from ..network.language_model import Dimensions
from ..network.prefix_encoder import PrefixEncoder
from .adapter import StoredAdapter
from .directory import PUBLISHED_SIZES, AdapterDirectory, PrefixTensors, find_prefix, open_adapter
from .files import CONFIG_FILE, MAX_NAME, AdapterConfig, BaseModel
from .fingerprint import is_same_base
from .prefix import StoredPrefix

MAX_SHOWN_NAME = 200  # characters: the names are mostly paths, whose ends matter

_log = logging.getLogger("glm")


def load_adapter(
    directory: Path,
    family: Family,
    config: Any,
    base: BaseModel | None = None,
    inside: Path | None = None,
) -> StoredAdapter:
    """Return the adapter that a directory holds, of whatever kind it is; the one place that knows the kinds.

    Args:
        directory: see `open_adapter`.
        family: of the model that it shall serve.
        config: of that model.
        base: what that model is; if the adapter was trained on other weights, a warning says so.
        inside: read no file that is really elsewhere; ``None`` = anywhere.

    Raises:
        AdapterError: the directory is missing or damaged, or the adapter is of another model.
        OutsideFolderError: a file to read is not inside ``inside``.
    """
    return StoredPrefix(load_prefix_encoder(open_adapter(directory, inside), family, config, base))


def load_built_in_adapter(checkpoint: Checkpoint, family: Family, config: Any) -> StoredAdapter | None:
    """Return the adapter among a model's own weights, or ``None`` if it has none.

    Args:
        checkpoint: of the model.
        family: of the model.
        config: of the model.

    Raises:
        AdapterError: it is incomplete, does not fit the model, or is not finite.
    """
    prefix = find_prefix(checkpoint)
    if prefix is None:
        return None
    return StoredPrefix(_load_for_model(prefix, family, config))


def load_prefix_encoder(
    adapter: AdapterDirectory | Path, family: Family, config: Any, base: BaseModel | None = None
) -> PrefixEncoder:
    """Return the prefix encoder of an adapter, in float32 on the CPU.

    Args:
        adapter: an opened adapter, or a directory to open; see `open_adapter`.
        family: of the model that it shall serve.
        config: of that model.
        base: what that model is; if the adapter was trained on other weights, a warning says so.

    Raises:
        AdapterError: the directory is missing or damaged, or the adapter is of another model.
    """
    if isinstance(adapter, Path):
        adapter = open_adapter(adapter)
    if adapter.stated is not None:
        _check_sizes(adapter.path, adapter.stated, family, family.read_dimensions(config))
    encoder = _load_for_model(
        adapter.prefix, family, config, lambda encoder: _format_sizes(encoder, adapter.published)
    )
    if adapter.stated is not None and base is not None:
        _compare_bases(adapter.path, adapter.stated.base, base)
    return encoder


def read_adapter(directory: Path) -> tuple[AdapterConfig, PrefixEncoder]:
    """Return an adapter without the model that it belongs to.

    Args:
        directory: see `open_adapter`; one without our file needs a ``config.json`` of its model.

    Raises:
        AdapterError: it is missing or damaged, or nothing says the sizes of its model.
    """
    adapter = open_adapter(directory)
    prefix, config = adapter.prefix, adapter.stated or _derive_config(adapter)
    needed = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    # Before an encoder of that size is built: the file may state any sizes, the tensors have those they have.
    if prefix.kv_size != needed:
        raise AdapterError(
            f"{adapter.path}: its weights have {prefix.kv_size:,} keys and values for each position, "
            f"num_layers {config.num_layers}, num_kv_heads {config.num_kv_heads} and head_dim "
            f"{config.head_dim} make {needed:,}; the files are of different adapters"
        )
    projection = (prefix.row_size, prefix.inner_size) if prefix.prefix_projection else None
    encoder = prefix.load(
        lambda: PrefixEncoder(
            prefix.pre_seq_len, config.num_layers, config.num_kv_heads, config.head_dim, projection
        ),
        f"its {config.family} model",
        lambda encoder: _format_sizes(encoder, adapter.published),
    )
    return config, encoder


def _load_for_model(
    prefix: PrefixTensors,
    family: Family,
    config: Any,
    explain: Callable[[PrefixEncoder], str] = lambda _: "",
) -> PrefixEncoder:
    """Return a stored prefix with the sizes of a model, which its tensors must have."""
    limit = family.read_dimensions(config).context_length
    # Before anything of that length is made: a few bytes of a file can claim any number of positions.
    if prefix.pre_seq_len > limit:
        raise AdapterError(
            f"{prefix.checkpoint.directory}: the prefix has {prefix.pre_seq_len:,} positions, this "
            f"{family.name} model takes {limit:,} tokens; the adapter is damaged or of another model"
        )
    return prefix.load(
        lambda: family.build_prefix_encoder(config, prefix.pre_seq_len, prefix.prefix_projection),
        f"this {family.name} model",
        explain,
    )


def _derive_config(adapter: AdapterDirectory) -> AdapterConfig:
    """Return what ``glm_adapter.json`` would say, from the ``config.json`` beside an original adapter."""
    content = adapter.published
    family = find_family(content)
    try:
        if family is None:
            raise KeyError("model_type")
        sizes = family.read_dimensions(family.read_config({**content, "pre_seq_len": None}))
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing or unknown" if isinstance(error, KeyError) else error
        raise AdapterError(
            f"{adapter.path} has neither {CONFIG_FILE} nor a {CONFIG} with its model's sizes ({reason}); "
            f"put the base model's {CONFIG} beside the weights"
        ) from error
    name = content.get("_name_or_path")
    return AdapterConfig(
        family=family.name,
        pre_seq_len=adapter.prefix.pre_seq_len,
        prefix_projection=adapter.prefix.prefix_projection,
        num_layers=sizes.num_layers,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        base=BaseModel(name[:MAX_NAME] if isinstance(name, str) else ""),
    )


def _check_sizes(directory: Path, stated: AdapterConfig, family: Family, sizes: Dimensions) -> None:
    for name, found, needed in (
        ("family", stated.family, family.name),
        ("num_layers", stated.num_layers, sizes.num_layers),
        ("num_kv_heads", stated.num_kv_heads, sizes.num_kv_heads),
        ("head_dim", stated.head_dim, sizes.head_dim),
    ):
        if found != needed:
            trained_on = f" ({_format_name(stated.base.name)})" if stated.base.name else ""
            raise AdapterError(
                f"{directory}: the adapter was trained on another model{trained_on}: "
                f"its {name} is {format_value(found)}, that of this one is {format_value(needed)}"
            )


def _compare_bases(directory: Path, trained_on: BaseModel, base: BaseModel) -> None:
    # Only a warning: on a further tuned copy of the base an adapter may still be what the user wants.
    known = trained_on.fingerprint and base.fingerprint
    if known and is_same_base(trained_on.fingerprint, base.fingerprint) is False:
        _log.warning(
            "glm: adapter %s was trained on %s, whose weights are not those of %s; its answers may be poor",
            directory,
            _format_name(trained_on.name) or "a model without a name",
            base.name,
        )


def _format_name(name: str) -> str:
    """Return the name of a base model, which a stranger may have written, as one line of a message."""
    return " ".join(clean_text(name).split())[:MAX_SHOWN_NAME]


def _format_sizes(encoder: PrefixEncoder, published: Mapping[str, Any]) -> str:
    """Return which sizes make the shapes, and what a ``config.json`` beside the weights says of them."""
    needed = (
        f"num_layers {encoder.num_layers}, num_kv_heads {encoder.num_kv_heads}, head_dim {encoder.head_dim}"
    )
    listed = ", ".join(
        f"{name} {format_value(published[name])}" for name in PUBLISHED_SIZES if name in published
    )
    return f" ({needed}; its {CONFIG} says {listed})" if listed else f" ({needed})"
