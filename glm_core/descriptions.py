"""What plugins say of themselves: the records that the ``describe_*`` hooks answer with.

Each is checked as it is built, inside the plugin's own hook. A wrong one therefore marks that
plugin as broken, by name and with the reason, and breaks no command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .config import DTYPES
from .errors import PluginError

OPTION_TYPES = (str, int, float, bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PluginError(message)


def _check_fields(what: str, record: Any, *, named_by: str = "name") -> None:
    """Refuse a field whose value is not of its declared type, and a name that no command line could take."""
    name = getattr(record, named_by)
    is_word = isinstance(name, str) and bool(name) and not name.startswith("-") and name.split() == [name]
    _require(is_word, f"the {named_by} of a {what} must be one word not beginning with '-', got {name!r}")
    # Not among the class's own names, of which an `Option` has one that is called "type".
    for field, declared in get_type_hints(type(record), localns={}).items():
        value = getattr(record, field)
        _require(
            _is_of(value, declared),
            f"{field} of {what} {name!r} must be {_describe_type(declared)}, got {value!r}",
        )


def _is_of(value: object, declared: Any) -> bool:
    if get_origin(declared) is tuple:
        return isinstance(value, tuple) and all(_is_of(member, get_args(declared)[0]) for member in value)
    is_bool = declared is int and isinstance(value, bool)  # which Python counts among the integers
    return declared is Any or (isinstance(value, declared) and not is_bool)


def _describe_type(declared: Any) -> str:
    if get_origin(declared) is tuple:
        return f"a tuple of {get_args(declared)[0].__name__}"
    return {str: "text", int: "a whole number"}.get(declared, getattr(declared, "__name__", str(declared)))


@dataclass(frozen=True)
class DeviceInfo:
    """One device as its backend sees it, without touching a driver more than needed.

    Attributes:
        name: what ``--device`` takes: ``"cpu"``, ``"cuda:0"``.
        type: the part before the colon.
        label: for people, such as ``"AMD EPYC, 2 cores, AVX-512"``.
        available: whether a model can run there now.
        reason: why not, or what to know.
        memory_bytes: total memory; 0 = unknown.
        free_memory_bytes: what a model could take now; 0 = unknown.
        dtypes: names that ``--dtype`` may take there, the one ``auto`` takes first.
        dtype_reason: why ``auto`` takes that one.
    """

    name: str
    type: str
    label: str
    available: bool = True
    reason: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    dtypes: tuple[str, ...] = ("float32",)
    dtype_reason: str = ""

    def __post_init__(self) -> None:
        _check_fields("device", self)
        kind = self.name.partition(":")[0]
        _require(
            bool(kind) and self.type == kind,
            f"device {self.name!r} has type {self.type!r}; expected the part before the colon, {kind!r}",
        )
        _require(kind != "auto", "a device cannot be called 'auto', which is the user's word for any")
        known = DTYPES[1:]  # without "auto", which is for users
        _require(
            bool(self.dtypes) and set(self.dtypes) <= set(known),
            f"device {self.name!r} has dtypes {self.dtypes!r}; expected a tuple of {', '.join(known)}",
        )


@dataclass(frozen=True)
class BackendInfo:
    """What a hardware backend offers.

    Attributes:
        name: the backend's name.
        devices: what it sees, absent ones included if it can say why.
        priority: ``--device auto`` takes the available device of highest priority (CPU is 0).
        schemes: what its ``quantize`` hook takes, such as ``("int8", "int4")``.
        kernels: what ``--kernels`` may choose beside ``auto``, such as ``("triton", "torch")``.
        kinds: the kinds of models that its hooks take, as runtimes call them in `ModelMatch`; this
            project's runtime calls its models ``"torch"``. A backend of no kind is never asked.
    """

    name: str
    devices: tuple[DeviceInfo, ...]
    priority: int = 0
    schemes: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fields("backend", self)


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime is called, and the devices of its own if it has any.

    On its own devices a runtime places its models itself: ``quantize``, ``place`` and
    ``measure_bandwidth`` are then asked of the runtime's plugin. On all others that is the
    backend's work.

    Attributes:
        name: what ``--runtime`` takes, beside the name of the plugin.
        summary: one line.
        devices: devices of its own, absent ones included if it can say why; of any type, also one
            that a backend has too, such as ``cuda``.
        priority: as of a backend, for its own devices; of two runtimes that could run a model on the
            same backend's device, that of higher priority is taken. Where both are equal, the user must
            choose with ``--runtime``: a second runtime for ChatGLM checkpoints that leaves this at 0, as
            this project's has it, stops every command that names no runtime.
        schemes: what its ``quantize`` hook takes on its own devices.
        kernels: what ``--kernels`` may choose on its own devices beside ``auto``.
        families: what ``--family`` may say of its models; others are not asked of it.
    """

    name: str
    summary: str = ""
    devices: tuple[DeviceInfo, ...] = ()
    priority: int = 0
    schemes: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fields("runtime", self)
        _require(self.name != "auto", "a runtime cannot be called 'auto', which is the user's word for any")


@dataclass(frozen=True)
class ModelMatch:
    """A runtime's answer to ``identify_model``: the model is one of its own.

    Attributes:
        kind: one word for what backends must know to place its models, such as ``"torch"`` or
            ``"gguf"``. A runtime that keeps its models to itself chooses a word of its own.
        reason: what told it, for people: ``"config.json says chatglm"``.
    """

    kind: str
    reason: str

    def __post_init__(self) -> None:
        _check_fields("model match", self, named_by="kind")


@dataclass(frozen=True)
class Option:
    """One option of a frontend or trainer; core makes the command-line flag of it.

    Attributes:
        name: as in Python, ``"server_port"``; the flag is ``--server-port``.
        help: one line.
        type: ``str``, ``int``, ``float`` or ``bool`` (a bare flag).
        default: what it is when not given.
    """

    name: str
    help: str
    type: type = str
    default: Any = None

    def __post_init__(self) -> None:
        _check_fields("option", self)
        _require(
            self.name.isidentifier(), f"option {self.name!r}: its name must be as in Python, such as port"
        )
        _require(
            self.type in OPTION_TYPES,
            f"option {self.name!r}: its type must be str, int, float or bool, got {self.type!r}",
        )
        accepted = (int, float) if self.type is float else (self.type,)
        _require(
            self.default is None or type(self.default) in accepted,
            f"option {self.name!r}: its default {self.default!r} is no {self.type.__name__}",
        )


OpenModel = Callable[[], Any]  # opens the chosen model when called; returns a `glm_core.ChatModel`


@dataclass(frozen=True)
class FrontendInfo:
    """What a frontend offers.

    Attributes:
        name: ``glm run NAME``.
        summary: one line for ``glm run --help``.
        run: ``"package.module:function"``, imported only when the frontend is started; called as
            ``function(open_model, options)`` with an `OpenModel` and a mapping of option values.
            It checks its options (a port in use) before it opens the model, and returns when
            the user is done.
        options: its own options.
    """

    name: str
    summary: str
    run: str
    options: tuple[Option, ...] = ()

    def __post_init__(self) -> None:
        _check_fields("frontend", self)
        module, _, function = self.run.partition(":")
        _require(
            bool(module and function),
            f'frontend {self.name!r} says run={self.run!r}; expected "package.module:function"',
        )


@dataclass(frozen=True)
class ModelCard:
    """A model that is known by name.

    Attributes:
        name: what ``--model`` takes.
        summary: one line.
        path: directory of a model that a package ships.
        hub_id: id on Hugging Face's hub.
        modelscope_id: id on ModelScope.
        aliases: other spellings.
        license: short name of the weights' licence.
    """

    name: str
    summary: str
    path: Path | None = None
    hub_id: str | None = None
    modelscope_id: str | None = None
    aliases: tuple[str, ...] = ()
    license: str = ""

    def __post_init__(self) -> None:
        _check_fields("model", self)


@dataclass(frozen=True)
class TrainerInfo:
    """What a trainer offers: ``glm train NAME``, and ``glm predict`` if it answers that hook too.

    Attributes:
        name: ``glm train NAME``.
        summary: one line for ``glm train --help``.
        options: its own options of ``glm train``.
        predict_options: its own options of ``glm predict``.
    """

    name: str
    summary: str
    options: tuple[Option, ...] = ()
    predict_options: tuple[Option, ...] = ()

    def __post_init__(self) -> None:
        _check_fields("trainer", self)
