"""Writing a quantised checkpoint: streamed from the source, resumable, complete or not there at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_hub.checksums import hash_file, write_checksums
from glm_hub.model_files import CONFIG, SAFETENSORS, list_model_files
from torch import Tensor

from glm_core.errors import CheckpointError, ConfigError
from glm_core.records import ModelSource, QuantizeJob, QuantizeProgress

from ..checkpoints.companions import copy_companions, list_companions
from ..checkpoints.foreign_formats import KEYS as FORMAT_KEYS
from ..checkpoints.json_file import read_json
from ..checkpoints.reader import Checkpoint
from ..checkpoints.requirements import require_parameters
from ..checkpoints.scaled_weights import open_model_weights
from ..checkpoints.writer import SafetensorsWriter, write_text
from ..families.recognition import record_family
from ..families.registry import Family
from ..model.directory import build_network, read_config, recognize_family
from ..network.empty_weights import build_without_weights
from ..network.language_model import LanguageModel
from ..network.parameters import list_aliases, list_unique_parameters
from ..quantization import StoredForm, check_linears, expect_stored_form, quantize_stored
from ..quantization.calibration import read_passages
from .block_gptq import BlockGPTQ
from .destination import check_destination, check_disk
from .partial import STATE_FILE, PartialCheckpoint
from .plan import Shard, ShardItem, iterate_items, plan_shards

MAX_SHARD_BYTES = 2 * 10**9  # what an interruption loses at most; file systems and hubs take it easily
RESULT_VERSION = 1  # to be raised when the same settings give other bytes than before
SMALL_FILES_BYTES = 2**20  # headers and configuration
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class PreparedJob:
    """A job whose every input was checked, and what is known of its result."""

    job: QuantizeJob
    source: Path
    family: Family
    raw: dict[str, Any]
    network: LanguageModel
    checkpoint: Checkpoint
    form: StoredForm
    shards: list[Shard]


def quantize_checkpoint(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress] | None:
    """Check everything now; write while the result is iterated. See the hook of that name.

    Returns:
        ``None`` if the source is no directory of a family that this runtime knows.

    Raises:
        ConfigError: scheme, method, calibration file or destination cannot be used.
        CheckpointError: the source is damaged or quantised already.
    """
    family = None if source.path is None else recognize_family(source.path, source.family)
    if source.path is None or family is None:
        return None
    prepared = _prepare(source.path, family, job)
    gptq = _prepare_gptq(prepared) if job.method == "gptq" else None
    return _run(prepared, gptq)


def _prepare(source: Path, family: Family, job: QuantizeJob) -> PreparedJob:
    check_destination(job.destination, source)
    raw = read_json(source / CONFIG)
    if raw.get("quantization_bit"):
        raise CheckpointError(
            f"{source} is quantised already (quantization_bit {raw['quantization_bit']} in config.json); "
            "quantise the float16 original."
        )
    form = StoredForm(job.scheme.bits, job.scheme.group_size, job.embeddings)
    checkpoint = open_model_weights(source, raw)
    network = build_network(family, read_config(source, raw, family), checkpoint)
    try:
        check_linears(network, job.scheme)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    checkpoint.rename_tied(list_aliases(network))
    require_parameters(checkpoint, dict(list_unique_parameters(network)))
    shards = plan_shards(checkpoint, network, form, MAX_SHARD_BYTES)
    copied = sum((source / path).stat().st_size for path in list_companions(source))
    check_disk(job.destination, sum(shard.num_bytes for shard in shards) + copied + SMALL_FILES_BYTES)
    return PreparedJob(job, source, family, raw, network, checkpoint, form, shards)


def _prepare_gptq(prepared: PreparedJob) -> BlockGPTQ:
    job = prepared.job
    if job.calibration is None:
        raise ConfigError(
            "gptq needs example text: pass --calibration FILE, one passage a line, or use --method rtn"
        )
    passages = read_passages(job.calibration, prepared.family.read_tokenizer(prepared.source))
    return BlockGPTQ(prepared.network, prepared.checkpoint, prepared.form, passages)


def _run(prepared: PreparedJob, gptq: BlockGPTQ | None) -> Iterator[QuantizeProgress]:
    partial = PartialCheckpoint(prepared.job.destination)
    try:
        with partial:
            yield from _write(prepared, gptq, partial)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise CheckpointError(
                f"the disk is full. {partial.directory} keeps the files that are finished, nothing stands at "
                f"{partial.destination}; free some space and run the same command again to go on."
            ) from error
        raise ConfigError(
            f"{partial.directory} cannot be written: {error.strerror or error}; choose another destination"
        ) from error


def _write(
    prepared: PreparedJob, gptq: BlockGPTQ | None, partial: PartialCheckpoint
) -> Iterator[QuantizeProgress]:
    total = sum(item.num_bytes for item in iterate_items(prepared.shards))
    done = 0
    yield QuantizeProgress(0, total, message=partial.resume(_collect_settings(prepared)))
    for shard in prepared.shards:
        if partial.has(shard.name):
            if gptq is not None:
                gptq.pass_through(shard, partial.directory / shard.name)
            done += sum(item.num_bytes for item in iterate_items([shard]))
            yield QuantizeProgress(done, total, message=f"{shard.name} is there already")
            continue
        with SafetensorsWriter(partial.directory / shard.name, shard.entries) as writer:
            for unit in shard.units:
                quantized = {} if gptq is None or unit.block is None else gptq.quantize(unit)
                for message in [] if gptq is None else gptq.take_notices():
                    yield QuantizeProgress(done, total, message=message)
                for item in unit.items:
                    _write_item(writer, item, quantized, prepared)
                    done += item.num_bytes
                    yield QuantizeProgress(done, total, item.source)
        partial.mark_finished(shard.name)
    _write_small_files(prepared, partial.directory)
    _verify(prepared, partial.directory)
    _write_checksums(partial)
    partial.complete()
    yield QuantizeProgress(total, total, finished=True)


def _write_item(
    writer: SafetensorsWriter,
    item: ShardItem,
    quantized: dict[str, tuple[Tensor, Tensor]],
    prepared: PreparedJob,
) -> None:
    if not item.quantized:
        writer.write(item.source, prepared.checkpoint.read_pieces(item.source))
        return
    found = quantized.get(item.source)
    if found is None:
        found = quantize_stored(prepared.checkpoint, item.source, prepared.job.scheme)
    for index, entry in enumerate(item.entries):
        writer.write(entry.name, [found[index % 2]])


def _collect_settings(prepared: PreparedJob) -> dict[str, Any]:
    """Return everything that the result depends on; another value of any begins the job anew."""
    job = prepared.job
    weights = [path.stat() for path in prepared.checkpoint.paths]
    return {
        "version": RESULT_VERSION,
        "source": str(prepared.source.resolve()),
        "files": [
            [path.name, facts.st_size, facts.st_mtime_ns]
            for path, facts in zip(prepared.checkpoint.paths, weights, strict=True)
        ],
        "family": prepared.family.name,  # whose tokenizer reads the example text
        "scheme": str(job.scheme),
        "embeddings": job.embeddings,
        "method": job.method,
        "calibration": None if job.calibration is None else hash_file(job.calibration),
        "shards": [[shard.name, shard.num_bytes] for shard in prepared.shards],
    }


def _write_small_files(prepared: PreparedJob, directory: Path) -> None:
    copy_companions(prepared.source, directory)
    # The source's entry would speak of another format, in which nothing is stored any more.
    config = {key: value for key, value in prepared.raw.items() if key not in FORMAT_KEYS}
    config |= prepared.form.as_config()
    record_family(config, directory, prepared.family.name)
    write_text(directory / CONFIG, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    if [shard.name for shard in prepared.shards] != [SAFETENSORS.single]:
        index = {
            "metadata": {"total_size": sum(shard.num_bytes for shard in prepared.shards)},
            "weight_map": {entry.name: shard.name for shard in prepared.shards for entry in shard.entries},
        }
        write_text(directory / SAFETENSORS.index, json.dumps(index, indent=2) + "\n")


def _write_checksums(partial: PartialCheckpoint) -> None:
    """Write the list by which `glm verify` tells later whether the copy is still what was written."""
    names = [name for name in list_model_files(partial.directory) if name != STATE_FILE]
    # The shards were hashed when they were finished, so that a damaged disk cannot make its own list.
    write_checksums(partial.directory, names, known=partial.hashes)


def _verify(prepared: PreparedJob, directory: Path) -> None:
    """Open the result as a reader would, before it gets its name."""
    raw = read_json(directory / CONFIG)
    with build_without_weights():
        network = prepared.family.build(read_config(directory, raw, prepared.family))
        expect_stored_form(network, raw)
    require_parameters(Checkpoint(directory), dict(list_unique_parameters(network)))
