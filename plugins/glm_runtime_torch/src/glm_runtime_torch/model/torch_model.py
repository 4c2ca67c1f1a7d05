"""The model that this runtime gives to core and backends, from its files to its engine."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_core import (
    CheckpointError,
    ClosedError,
    ConfigError,
    ModelInfo,
    ModelLoad,
    OutOfMemoryError,
    Sampling,
)
from glm_core.records import ChatRequest, DeltaStream, QuantizationScheme

from ..adapters.adapter import Adapter, StoredAdapter
from ..adapters.files import BaseModel
from ..adapters.fingerprint import fingerprint_checkpoint, fingerprint_parameters
from ..adapters.loading import load_adapter
from ..checkpoints.reader import Checkpoint
from ..families.registry import Family
from ..generation.engine import Engine
from ..generation.executor import MakeExecutor
from ..generation.failures import is_out_of_memory
from ..network.attention import DecodeAttention
from ..network.language_model import LanguageModel
from ..network.parameters import (
    KEPT_IN_FLOAT32,
    count_parameters,
    count_resident_bytes,
    list_unique_parameters,
    replace_parameter,
)
from ..quantization import quantize_from_files, quantize_in_place
from ..tokenizers import ChatTokenizer, ToolTokenizer
from .cache import reserve_cache
from .device_map import DeviceMap, Parts, find_parts

CPU = torch.device("cpu")
# What the adapter of requests that name none is called where it has to be named.
BUILT_IN = "built-in"


class TorchModel:
    """A model of this runtime, before and after its weights have a place.

    Backends work on it in two steps: `materialize` (and whatever they replace in ``network``
    before or after), then `start`.

    Args:
        name: as the user wrote it.
        family: the model's family.
        config: the family's configuration.
        network: on the meta device if ``checkpoint`` holds its weights.
        tokenizer: of the same model.
        dtype: to compute in.
        checkpoint: where the weights are; ``None`` if they are in ``network`` already.
        adapters: adapters to load, by name.
        base_adapter: an adapter that is part of the model itself.
        sampling: the model's own defaults; ``None`` takes the family's.
        num_parameters: weights of the network before quantisation; ``None`` counts them.
    """

    def __init__(
        self,
        name: str,
        family: Family,
        config: Any,
        network: LanguageModel,
        tokenizer: ChatTokenizer,
        dtype: torch.dtype,
        *,
        checkpoint: Checkpoint | None = None,
        adapters: Mapping[str, StoredAdapter] | None = None,
        base_adapter: StoredAdapter | None = None,
        sampling: Sampling | None = None,
        num_parameters: int | None = None,
    ) -> None:
        self.family = family
        self.config = config
        self._network: LanguageModel | None = network
        self.tokenizer = tokenizer
        self.dtype = dtype
        self._checkpoint = checkpoint
        self._adapters = dict(adapters or {})
        self._base_adapter = base_adapter
        self._engine: Engine | None = None
        self._closed = False
        self._naming = threading.Lock()
        self.info = ModelInfo(
            name=name,
            family=family.name,
            num_parameters=count_parameters(network) if num_parameters is None else num_parameters,
            context_length=network.dimensions.context_length,
            sampling=family.sampling if sampling is None else sampling,
            adapters=tuple(self._adapters),
            features=frozenset({"tools"} if isinstance(tokenizer, ToolTokenizer) else ()),
        )

    @property
    def engine(self) -> Engine:
        """The engine that answers requests.

        Raises:
            ClosedError: the model was not placed yet, or was closed.
        """
        if self._engine is None:
            state = "was closed" if self._closed else "has not been placed on a device yet"
            raise ClosedError(f"the model {state}")
        return self._engine

    @property
    def network(self) -> LanguageModel:
        """The network; a backend may put a copy with other layers in its place.

        Raises:
            ClosedError: the model was closed.
        """
        if self._network is None:
            raise ClosedError("the model was closed")
        return self._network

    @network.setter
    def network(self, network: LanguageModel) -> None:
        self._network = network

    @property
    def base(self) -> BaseModel:
        """What adapters say of the model that they belong to; a few megabytes are read to tell."""
        if self._checkpoint is not None:
            return BaseModel(self.info.name, fingerprint_checkpoint(self._checkpoint))
        if self.dtype == torch.bfloat16:  # rounded differently, so nothing can be told
            return BaseModel(self.info.name)
        return BaseModel(self.info.name, fingerprint_parameters(self.network.named_parameters()))

    def count_weight_bytes(self, *, unread_only: bool = False) -> int:
        """Return the bytes that all weights take in memory, or only those that are still to be read."""
        return sum(
            parameter.numel() * self._choose_dtype(name, parameter).itemsize
            for name, parameter in list_unique_parameters(self.network)
            if parameter.is_meta or not unread_only
        )

    @property
    def is_quantized(self) -> bool:
        """Whether the blocks' linear layers are stored integers."""
        return not self.network.find_block_linears()

    @property
    def adapter_positions(self) -> int:
        """Positions of the KV cache that the longest of the adapters takes."""
        return max((adapter.num_positions for adapter in self._stored_adapters), default=0)

    @property
    def adapter_bytes(self) -> int:
        """Memory of all adapters once they are placed."""
        return sum(adapter.count_bytes(self.dtype) for adapter in self._stored_adapters)

    @property
    def _stored_adapters(self) -> list[StoredAdapter]:
        return [*self._adapters.values(), *([] if self._base_adapter is None else [self._base_adapter])]

    @property
    def directory(self) -> Path | None:
        """Where its files are; ``None`` for a model that somebody else holds."""
        return None if self._checkpoint is None else self._checkpoint.directory

    @property
    def is_borrowed(self) -> bool:
        """Whether the weights are of a model that somebody else holds, and may want to train or save."""
        return self._checkpoint is None

    @property
    def parts(self) -> Parts:
        """The parts of the network that may be on different devices, with the memory that they will take."""
        sizes = {
            name: parameter.numel() * self._choose_dtype(name, parameter).itemsize
            for name, parameter in list_unique_parameters(self.network)
        }
        return find_parts(self.network, sizes)

    def materialize(
        self, place: torch.device | DeviceMap, modules: Iterable[nn.Module] | None = None
    ) -> None:
        """Read every weight that is still on the meta device, one at a time, straight to its device.

        Weights that are real already are moved as they are. Memory peaks at the result plus a few
        megabytes.

        Args:
            place: where they go.
            modules: only the weights of these; a backend that gives each layer another form reads
                and replaces them one by one.
        """
        self.network.eval()
        if self._checkpoint is None:
            if isinstance(place, DeviceMap):
                place.move(self.network)
            else:
                self.network.to(place)
            return
        self.network.requires_grad_(False)
        wanted = None
        if modules is not None:
            wanted = {id(parameter) for module in modules for parameter in module.parameters()}
        for name, parameter in list_unique_parameters(self.network):
            if wanted is not None and id(parameter) not in wanted:
                continue
            device = place.find_device(name) if isinstance(place, DeviceMap) else place
            if parameter.is_meta:
                value = self._checkpoint.read(name, dtype=self._choose_dtype(name, parameter), device=device)
                replace_parameter(self.network, parameter, value)
            elif parameter.device != device:
                replace_parameter(self.network, parameter, parameter.to(device))

    def quantize(
        self,
        scheme: QuantizationScheme | int,
        *,
        embeddings: QuantizationScheme | None = None,
    ) -> None:
        """Quantise every linear layer of the blocks straight from its file, one at a time.

        Args:
            scheme: of these layers; a bare number of bits means one scale per row.
            embeddings: of the embedding table and the head where they are one, else of the head alone;
                ``None`` leaves both.

        Raises:
            CheckpointError: the weights are quantised already.
            ConfigError: a scheme does not suit the model; nothing was changed.
        """
        scheme = QuantizationScheme(scheme) if isinstance(scheme, int) else scheme
        if self.is_quantized:
            raise CheckpointError(
                f"{self.info.name} is quantised already; leave --quantize out, or load the float16 one."
            )
        try:
            if self._checkpoint is None:
                quantize_in_place(self.network, scheme, embeddings=embeddings)
            else:
                quantize_from_files(
                    self.network,
                    self._checkpoint,
                    scheme,
                    embeddings=embeddings,
                    dtype=self.dtype,
                )
        except ValueError as error:
            raise ConfigError(f"--quantize {scheme}: {error}") from error

    @torch.no_grad()
    def start(
        self,
        place: torch.device | DeviceMap,
        *,
        slots: int = 0,
        context_length: int = 0,
        kv_memory_bytes: int = 0,
        attention: DecodeAttention | None = None,
        executor: MakeExecutor | None = None,
    ) -> None:
        """Reserve the KV cache and make the model ready to answer.

        Args:
            place: where the weights are; of a map the network's walk learns where to hop.
            slots: sequences to answer at the same time; 0 = as many as the memory takes.
            context_length: tokens that one request may use; 0 = what the model was made for.
            kv_memory_bytes: memory that the KV cache may take; 0 = no limit.
            attention: the backend's own decode attention.
            executor: makes the backend's own executor of decode steps.

        Raises:
            OutOfMemoryError: not even one conversation fits.
        """
        device, layer_devices, devices = self._find_devices(place)
        adapters = [self._place_adapter(name, stored, device) for name, stored in self._adapters.items()]
        base = None
        if self._base_adapter is not None:
            base = self._place_adapter(BUILT_IN, self._base_adapter, device)
        self.info = dataclasses.replace(
            self.info,
            context_length=context_length or self.info.context_length,
            weight_bytes=count_resident_bytes(self.network),
            devices=tuple(map(str, devices)),
            dtype=str(self.dtype).removeprefix("torch."),
        )
        cache = reserve_cache(
            self.network.dimensions,
            self.info.context_length + self.adapter_positions,
            self.dtype,
            device,
            slots=slots,
            memory_bytes=kv_memory_bytes,
            layer_devices=layer_devices,
            attention=attention,
        )
        self._engine = Engine(
            self.network,
            self.tokenizer,
            cache,
            capacity=self.info.context_length,
            sampling=self.info.sampling,
            device=device,
            adapters=adapters,
            base_adapter=base,
            executor=None if executor is None else executor(self.network, cache),
        )
        self._adapters.clear()  # the engine has what they became

    def _place_adapter(self, name: str, stored: StoredAdapter, device: torch.device) -> Adapter:
        return stored.place(name, self.network, device, self.dtype)

    def _find_devices(
        self, place: torch.device | DeviceMap
    ) -> tuple[torch.device, tuple[torch.device, ...] | None, tuple[torch.device, ...]]:
        """Return where inputs go, where each block is (``None`` = there), and all devices."""
        if not isinstance(place, DeviceMap):
            return place, None, (place,)
        parts = find_parts(self.network)
        if not self.is_borrowed:  # one that somebody else divided has its route
            self.network.route = place.make_route(parts)
        return place.places[parts.units[0].name], place.list_block_devices(parts), place.devices

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """Load an adapter beside those there are; running answers go on meanwhile.

        A slot of the KV cache is as large as it was at the start: what the adapter's positions take
        of it beyond the room that adapters at the start were given, its requests have less.

        Raises:
            AdapterError: the name is taken, the adapter is damaged or of another model, or it is
                longer than a slot of the KV cache.
            OutsideFolderError: a file to read is not inside ``inside``.
            OutOfMemoryError: its keys and values do not fit.
            ClosedError: the model has no engine.
        """
        engine = self.engine
        engine.adapters.check(name)
        stored = load_adapter(directory, self.family, self.config, self.base, inside)
        engine.adapters.check(name, stored.num_positions)
        try:
            adapter = self._place_adapter(name, stored, engine.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"adapter {name!r}: {engine.device} has no memory for its {stored.num_positions} positions. "
                "Remove another adapter first, or start with fewer --slots."
            ) from error
        with self._naming:
            self.engine.adapters.add(adapter)  # the model may have been closed meanwhile
            self._list_adapters()

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests that were accepted with it end as they would have.

        Raises:
            AdapterError: there is none of that name.
            ClosedError: the model has no engine.
        """
        with self._naming:
            self.engine.adapters.remove(name)
            self._list_adapters()

    def _list_adapters(self) -> None:
        self.info = dataclasses.replace(self.info, adapters=self.engine.adapters.names)

    def _choose_dtype(self, name: str, parameter: Tensor) -> torch.dtype:
        if not parameter.is_floating_point():
            return parameter.dtype
        return torch.float32 if name.endswith(KEPT_IN_FLOAT32) else self.dtype

    def stream(self, request: ChatRequest) -> DeltaStream:
        """Answer one request; see `Engine.stream`."""
        return self.engine.stream(request)

    @property
    def load(self) -> ModelLoad:
        """How busy the engine is; see `Engine.load`."""
        return self.engine.load

    def close(self) -> None:
        """Drop weights and cache; running and waiting answers end with `ClosedError`."""
        self._closed = True
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self._checkpoint = None
        self._network = None
