"""Null plugins that break one promise each, by the name of the check that must catch it."""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from glm_testing import make_plugin, null_backend
from glm_testing.conformance import Subject
from glm_testing.null_backend import NullModel, NullStream, make_deltas

from glm_core import hookimpl
from glm_core.errors import AdapterError, BusyError, CheckpointError, ClosedError, ConfigError
from glm_core.records import (
    BackendInfo,
    ChatRequest,
    Delta,
    DeviceInfo,
    FrontendInfo,
    ModelCard,
    ModelLoad,
    ModelMatch,
    ModelSource,
    Placement,
    QuantizeJob,
    QuantizeProgress,
    Sampling,
)

HOOKS = (
    *("describe_backend", "describe_models", "describe_runtime"),
    *("identify_model", "load_model", "place", "chat_stream"),
)
Maker = Callable[[Path], Subject]

BROKEN: dict[str, list[Maker]] = {}
"""For each check functions that make a plugin which it must catch; they are given an empty directory."""

PATIENCE = 4.0
"""Seconds that the kit waits for what a broken plugin never does; what works must come meanwhile."""

RELEASE = threading.Event()
"""Set when a test is over: lets threads that a broken plugin left behind end."""


def breaks(check: str) -> Callable[[Maker], Maker]:
    """Put a maker of a broken plugin into the table."""

    def register(make: Maker) -> Maker:
        BROKEN.setdefault(check, []).append(make)
        return make

    return register


def null_with(**members: Any) -> ModuleType:
    """The null backend with some of its members replaced."""
    return make_plugin(**{name: getattr(null_backend, name) for name in HOOKS} | members)


def subject_of(plugin: ModuleType | str, **settings: Any) -> Subject:
    """The plugin under test, by a kit that does not wait long."""
    return Subject(plugin, **{"patience": PATIENCE, **settings})


def answering(answer: Callable[[NullModel, ChatRequest], Any], *, checks_closed: bool = True) -> ModuleType:
    """The null backend with another way to answer."""

    @hookimpl
    def chat_stream(model: object, request: ChatRequest) -> Any:
        if not isinstance(model, NullModel):
            return None
        if model.closed and checks_closed:
            raise ClosedError("closed")
        return answer(model, request)

    return null_with(chat_stream=chat_stream)


def changed(change: Callable[[ChatRequest, list[Delta]], list[Delta]]) -> Subject:
    """A plugin whose answers are changed before they are sent."""
    return subject_of(
        answering(lambda model, request: NullStream(model, change(request, make_deltas(model, request))))
    )


def words(*texts: str) -> list[Delta]:
    """An answer of these words."""
    return make_deltas(NullModel("null"), ChatRequest(prompt=" ".join(texts)))


# --- every plugin ----------------------------------------------------------------------------------


@breaks("loads")
def another_version(folder: Path) -> Subject:
    """Written for another version of the hooks."""
    return subject_of(null_with(GLM_API_VERSION=99))


def written(folder: Path, source: str) -> Subject:
    """A plugin in a file, found because the test puts the folder on ``sys.path``."""
    name = f"plugin_in_{folder.name}".replace("-", "_")
    folder.joinpath(f"{name}.py").write_text(f"from glm_testing.null_backend import *\n{source}\n")
    return subject_of(name)


@breaks("loads")
def endless_import(folder: Path) -> Subject:
    """Waits at import for what never comes; not even the kit waits with it."""
    return written(folder, "import time\ntime.sleep(3600)")


@breaks("loads")
def fatal_import(folder: Path) -> Subject:
    """Ends the process that imports it, past every handler."""
    return written(folder, "import os\nos._exit(3)")


@breaks("light-import")
def heavy_import(folder: Path) -> Subject:
    """Imports numpy at module level."""
    return written(folder, "import numpy")


@breaks("light-descriptions")
def heavy_description(folder: Path) -> Subject:
    """Imports numpy to describe its devices."""
    source = """
from glm_core import hookimpl
from glm_testing import null_backend
@hookimpl
def describe_backend():
    import numpy
    return null_backend.describe_backend()
"""
    return written(folder, source)


@breaks("light-identification")
def heavy_identification(folder: Path) -> Subject:
    """Imports numpy before it looks at a model."""
    source = """
from glm_core import hookimpl
from glm_testing import null_backend
@hookimpl
def identify_model(source):
    import numpy
    return null_backend.identify_model(source)
"""
    return written(folder, source)


@breaks("no-side-effects")
def prints_at_import(folder: Path) -> Subject:
    """Greets whoever imports it."""
    return written(folder, "print('hello')")


@breaks("descriptions")
def wrong_record(folder: Path) -> Subject:
    """Describes its frontend by a dictionary."""
    return subject_of(make_plugin(describe_frontend=hookimpl(lambda: {"name": "mine"})))


@breaks("descriptions")
def schemes_without_hook(folder: Path) -> Subject:
    """Describes schemes and has no ``quantize``."""
    return subject_of(described(schemes=("int8",)))


def described(*devices: DeviceInfo, **fields: Any) -> ModuleType:
    """The null backend with other devices."""
    info = BackendInfo(
        "null", devices or null_backend.describe_backend().devices, -1, kinds=("null",), **fields
    )

    @hookimpl
    def describe_backend() -> BackendInfo:
        return info

    return null_with(describe_backend=describe_backend)


@breaks("descriptions-repeat")
def restless_description(folder: Path) -> Subject:
    """Counts how often it was asked."""
    asked: list[int] = []

    @hookimpl
    def describe_backend() -> BackendInfo:
        asked.append(1)
        device = DeviceInfo("null", "null", f"asked {len(asked)} times")
        return BackendInfo("null", (device,), kinds=("null",))

    return subject_of(null_with(describe_backend=describe_backend))


@breaks("devices")
def silent_absence(folder: Path) -> Subject:
    """Its second device is not available and says no reason."""
    there, absent = (DeviceInfo(f"null:{number}", "null", "none") for number in range(2))
    return subject_of(described(there, replace(absent, available=False)))


@breaks("model-cards")
def lost_files(folder: Path) -> Subject:
    """Ships a model whose files are not there."""
    cards = (*null_backend.describe_models(), ModelCard("lost", "gone", path=folder / "nowhere"))
    return subject_of(null_with(describe_models=hookimpl(lambda: cards)))


@breaks("declines-sources")
def claims_every_directory(folder: Path) -> Subject:
    """Raises for a directory that another runtime may know."""

    @hookimpl
    def identify_model(source: ModelSource) -> ModelMatch | None:
        if source.path is not None:
            raise CheckpointError("no null.json")
        return null_backend.identify_model(source)

    return subject_of(null_with(identify_model=identify_model))


@breaks("identifies")
def restless_identification(folder: Path) -> Subject:
    """Gives another answer every time it is asked."""
    asked: list[int] = []

    @hookimpl
    def identify_model(source: ModelSource) -> ModelMatch | None:
        asked.append(1)
        return ModelMatch("null", f"asked {len(asked)} times") if source.name == "null" else None

    return subject_of(null_with(identify_model=identify_model))


@breaks("kinds")
def backend_of_no_kind(folder: Path) -> Subject:
    """Describes devices, and not for which models they are."""
    info = BackendInfo("null", (DeviceInfo("null", "null", "none"),))
    return subject_of(make_plugin(describe_backend=hookimpl(lambda: info), place=hookimpl(lambda: None)))


@breaks("declines-models")
def trusts_every_model(folder: Path) -> Subject:
    """Takes every model for its own."""

    @hookimpl
    def place(model: Any, placement: Placement) -> Any:
        model.info = replace(model.info, devices=placement.devices, dtype="float32")
        return model

    return subject_of(null_with(place=place))


# --- lifecycle -------------------------------------------------------------------------------------


def loading(change: Callable[[NullModel], Any]) -> Subject:
    """A plugin whose models are changed when they are loaded."""

    @hookimpl
    def load_model(source: ModelSource) -> Any:
        model = null_backend.load_model(source)
        return None if model is None else change(model) or model

    return subject_of(null_with(load_model=load_model))


@breaks("model-info")
def no_defaults(folder: Path) -> Subject:
    """Does not say how it samples."""
    return loading(lambda model: setattr(model, "info", replace(model.info, sampling=Sampling())))


def placing(change: Callable[[NullModel, Placement], Any], **members: Any) -> ModuleType:
    """The null backend with another ``place`` for its own models."""

    @hookimpl
    def place(model: object, placement: Placement) -> Any:
        if not isinstance(model, NullModel):
            return None
        change(model, placement)
        return model

    return null_with(place=place, **members)


@breaks("placed-where")
def nowhere(folder: Path) -> Subject:
    """Does not say where it is."""

    def change(model: NullModel, placement: Placement) -> None:
        model.info = replace(model.info, dtype="float32")

    return subject_of(placing(change))


@breaks("placing-again")
def placed_once(folder: Path) -> Subject:
    """A second ``place`` closes the model."""

    def change(model: NullModel, placement: Placement) -> None:
        model.closed = bool(model.info.devices)
        model.info = replace(model.info, devices=placement.devices, dtype="float32")

    return subject_of(placing(change))


@breaks("dtypes")
def one_dtype_only(folder: Path) -> Subject:
    """Lists a dtype and computes in another."""
    return subject_of(described(DeviceInfo("null", "null", "none", dtypes=("float32", "bfloat16"))))


@breaks("kernels")
def listed_kernels(folder: Path) -> Subject:
    """Lists kernels that it does not have."""

    def change(model: NullModel, placement: Placement) -> None:
        if placement.kernels == "fast":
            raise RuntimeError("no such kernels")
        null_backend.place(model, placement)

    info = replace(null_backend.describe_backend(), kernels=("fast",))
    return subject_of(placing(change, describe_backend=hookimpl(lambda: info)))


@breaks("schemes")
def listed_schemes(folder: Path) -> Subject:
    """Lists a scheme that its ``quantize`` declines."""
    info = replace(null_backend.describe_backend(), schemes=("int8",))
    return subject_of(null_with(describe_backend=hookimpl(lambda: info), quantize=hookimpl(lambda: None)))


_KEPT: list[object] = []


@breaks("memory-returned")
def kept_models(folder: Path) -> Subject:
    """Keeps every model in a list."""
    return loading(_KEPT.append)


@breaks("bandwidth")
def no_bandwidth(folder: Path) -> Subject:
    """Says that its memory stands still."""
    return subject_of(null_with(measure_bandwidth=hookimpl(lambda: 0.0)))


# --- answers ---------------------------------------------------------------------------------------


@breaks("final-delta")
def two_ends(folder: Path) -> Subject:
    """The last delta comes twice."""
    return changed(lambda request, deltas: [*deltas, deltas[-1]])


@breaks("final-delta")
def counts_all_the_time(folder: Path) -> Subject:
    """Tells usage with every delta."""

    def change(request: ChatRequest, deltas: list[Delta]) -> list[Delta]:
        return [replace(delta, usage=deltas[-1].usage) for delta in deltas]

    return changed(change)


@breaks("token-counts")
def counts_the_end(folder: Path) -> Subject:
    """Counts one token more than it gives."""

    def change(request: ChatRequest, deltas: list[Delta]) -> list[Delta]:
        usage = deltas[-1].usage
        assert usage is not None
        more = replace(usage, completion_tokens=usage.completion_tokens + 1)
        return [*deltas[:-1], replace(deltas[-1], usage=more)]

    return changed(change)


@breaks("length-limit")
def one_too_many(folder: Path) -> Subject:
    """Takes the limit for the number of the last token, from 0."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        limit = request.sampling.max_new_tokens
        sampling = replace(request.sampling, max_new_tokens=None if limit is None else limit + 1)
        return NullStream(model, make_deltas(model, replace(request, sampling=sampling)))

    return subject_of(answering(answer))


@breaks("whole-characters")
def byte_by_byte(folder: Path) -> Subject:
    """Decodes tokens that end in the middle of a character."""

    def change(request: ChatRequest, deltas: list[Delta]) -> list[Delta]:
        split = []
        for delta in deltas:
            data = delta.text.encode()
            pieces = [data[:4].decode(errors="replace"), data[4:].decode(errors="replace")]
            split += [replace(delta, text=pieces[0]), Delta(pieces[1])] if data else [delta]
        return split

    return changed(change)


@breaks("stop-strings")
def looks_at_single_tokens(folder: Path) -> Subject:
    """Finds a stop string only within one token."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        deltas = make_deltas(model, replace(request, stop=()))
        end = next(
            (n for n, delta in enumerate(deltas) if any(stop in delta.text for stop in request.stop)), None
        )
        return NullStream(model, deltas if end is None else [*deltas[:end], replace(deltas[-1], text="")])

    return subject_of(answering(answer))


@breaks("greedy-repeats")
def never_the_same(folder: Path) -> Subject:
    """Ends each greedy answer with another number."""
    number = iter(range(10**6))

    def change(request: ChatRequest, deltas: list[Delta]) -> list[Delta]:
        if request.sampling.do_sample is False:
            return [replace(deltas[0], text=f"{deltas[0].text}{next(number)}"), *deltas[1:]]
        return deltas

    return changed(change)


def by_chance(generator: Callable[[int | None], random.Random]) -> Subject:
    """A plugin that shuffles the words where it may sample."""

    def change(request: ChatRequest, deltas: list[Delta]) -> list[Delta]:
        if not request.sampling.do_sample:
            return deltas
        mixed = deltas[:-1]
        generator(request.seed).shuffle(mixed)
        return [*mixed, deltas[-1]]

    return changed(change)


@breaks("seeds-repeat")
def forgets_the_seed(folder: Path) -> Subject:
    """Samples with a fresh seed always."""
    return by_chance(lambda seed: random.Random())


@breaks("seeds-differ")
def one_seed_for_all(folder: Path) -> Subject:
    """Takes every seed for the same."""
    return by_chance(lambda seed: random.Random(None if seed is None else 1))


@breaks("seeds-differ")
def knows_few_seeds(folder: Path) -> Subject:
    """Takes only the size of a seed."""
    return by_chance(lambda seed: random.Random(None if seed is None else seed >= 2**32))


@breaks("conversations")
def messages_only(folder: Path) -> Subject:
    """Looks for messages where there is a bare prompt."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        assert request.messages[-1].content
        return NullStream(model, make_deltas(model, request))

    return subject_of(answering(answer))


@breaks("oversized-prompts")
def answers_anything(folder: Path) -> Subject:
    """Cuts a question that does not fit."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        cut = " ".join(null_backend.list_words(request)[:100])
        return NullStream(model, make_deltas(model, replace(request, messages=(), prompt=cut)))

    return subject_of(answering(answer))


@breaks("unknown-adapters")
def ignores_unknown_adapters(folder: Path) -> Subject:
    """Answers with the base model instead."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        known = request.adapter if request.adapter in model.words else None
        return NullStream(model, make_deltas(model, replace(request, adapter=known)))

    return subject_of(answering(answer))


@breaks("unknown-adapters")
def looks_adapters_up(folder: Path) -> Subject:
    """Raises what a dictionary raises."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        assert request.adapter is None or model.words[request.adapter]
        return NullStream(model, make_deltas(model, request))

    return subject_of(answering(answer))


# --- cancelling ------------------------------------------------------------------------------------


class LeakyStream(NullStream):
    """Gives its slot back at its end only."""

    def close(self) -> None:
        """Forget the rest, and the slot."""
        self._deltas.clear()


@breaks("closing")
def leaks_slots(folder: Path) -> Subject:
    """With one slot, the answer after a closed one finds none."""

    def answer(model: NullModel, request: ChatRequest) -> LeakyStream:
        if model.active > 1:
            raise BusyError("no slot is free")
        return LeakyStream(model, make_deltas(model, request))

    return subject_of(answering(answer))


@breaks("closing-from-elsewhere")
def plain_generator(folder: Path) -> Subject:
    """A generator that takes its time cannot be closed while it does."""

    def generate(deltas: list[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            time.sleep(0.005)
            yield delta

    return subject_of(answering(lambda model, request: generate(make_deltas(model, request))))


class Queued(NullStream):
    """Answers one request after the other; who waits for a turn is not told that it will never come."""

    def __init__(self, model: NullModel, deltas: list[Delta]) -> None:
        super().__init__(model, deltas)
        self._line: list[Queued] = vars(model).setdefault("line", [])
        self._line.append(self)

    def __next__(self) -> Delta:
        if self not in self._line:
            raise StopIteration
        while self._line[:1] != [self] and not RELEASE.is_set():
            time.sleep(0.001)
        delta = super().__next__()
        if not self._deltas:
            self._line.remove(self)
        return delta

    def close(self) -> None:
        """Leave the line."""
        if self in self._line:
            self._line.remove(self)
        super().close()


@breaks("closing-from-elsewhere")
def leaves_readers_waiting(folder: Path) -> Subject:
    """Closing does not wake who waits for a turn."""
    return subject_of(answering(lambda model, request: Queued(model, make_deltas(model, request))))


class Disturbed(NullStream):
    """Whoever closes one early spoils what others are in the middle of."""

    spoilt = 0

    def __next__(self) -> Delta:
        before = Disturbed.spoilt
        time.sleep(0.001)
        delta = super().__next__()
        return replace(delta, text=delta.text.upper()) if Disturbed.spoilt > before else delta

    def close(self) -> None:
        """Note it, if it was early."""
        Disturbed.spoilt += bool(self._deltas)
        super().close()


@breaks("cancelling-under-load")
def disturbs_neighbours(folder: Path) -> Subject:
    """Closing one answer changes another."""
    return subject_of(answering(lambda model, request: Disturbed(model, make_deltas(model, request))))


class Crowded(NullStream):
    """Mixes up its tokens while others run."""

    def __next__(self) -> Delta:
        time.sleep(0.001)
        delta = super().__next__()
        return replace(delta, token_ids=(7, 7)) if self._model.active > 1 and delta.token_ids else delta


@breaks("answers-at-once")
def mixes_up_answers(folder: Path) -> Subject:
    """Its tokens depend on what else runs."""
    return subject_of(answering(lambda model, request: Crowded(model, make_deltas(model, request))))


class Boaster(NullModel):
    """Says that twice as much runs as there are slots."""

    @property
    def load(self) -> ModelLoad:
        """Not so."""
        return ModelLoad(1, 2 * self.active, 0, 0, 0, 0)


@breaks("load")
def boasts(folder: Path) -> Subject:
    """Its load is no truth."""
    return loading(lambda model: Boaster(model.info.name))


class Undead(NullModel):
    """Does not know that it was closed."""

    def close(self) -> None:
        """Stay open."""


@breaks("closing-models")
def answers_when_closed(folder: Path) -> Subject:
    """A closed model goes on."""
    return loading(lambda model: Undead(model.info.name))


class OnceOnly(NullModel):
    """Cannot be closed twice."""

    def close(self) -> None:
        """Complain the second time."""
        if self.closed:
            raise RuntimeError("closed already")
        super().close()


@breaks("closing-twice")
def closes_once(folder: Path) -> Subject:
    """A second close raises."""
    return loading(lambda model: OnceOnly(model.info.name))


@breaks("threads-end")
def leaves_threads(folder: Path) -> Subject:
    """Each model has a thread that nobody ends."""

    def change(model: NullModel, placement: Placement) -> None:
        threading.Thread(target=RELEASE.wait, daemon=True, name="forgotten").start()
        null_backend.place(model, placement)

    return subject_of(placing(change))


# --- adapters --------------------------------------------------------------------------------------


def adapter(folder: Path) -> dict[str, Any]:
    """An adapter of the null model."""
    folder.joinpath("poet").mkdir(exist_ok=True)
    folder.joinpath("poet", "adapter.txt").write_text("Ahoy!")
    return {"adapters": {"poet": folder / "poet"}}


@breaks("adapters")
def adapter_for_all(folder: Path) -> Subject:
    """Takes its only adapter for requests that name none."""

    def answer(model: NullModel, request: ChatRequest) -> NullStream:
        chosen = request.adapter or next(iter(model.words), None)
        return NullStream(model, make_deltas(model, replace(request, adapter=chosen)))

    return subject_of(answering(answer), **adapter(folder))


class Hoarder(NullModel):
    """Forgets the names of adapters only."""

    def remove_adapter(self, name: str) -> None:
        """Keep its word."""
        self.info = dataclasses.replace(self.info, adapters=())


@breaks("adapters-come-and-go")
def removed_adapters_answer(folder: Path) -> Subject:
    """A removed adapter answers as before."""

    @hookimpl
    def load_model(source: ModelSource) -> NullModel | None:
        return Hoarder(source.name, source.adapters) if source.name == "null" else None

    return subject_of(null_with(load_model=load_model), **adapter(folder))


@breaks("damaged-adapters")
def takes_damaged_adapters(folder: Path) -> Subject:
    """Loads what it cannot read, without its word."""

    @hookimpl
    def load_model(source: ModelSource) -> NullModel | None:
        try:
            return null_backend.load_model(source)
        except AdapterError:
            return NullModel(source.name, tuple(source.adapters))

    return subject_of(null_with(load_model=load_model), **adapter(folder))


# --- quantised copies ------------------------------------------------------------------------------


def copying(
    folder: Path,
    copy: Callable[[Path, QuantizeJob], Iterator[QuantizeProgress]],
    bits: tuple[int, ...] = (4, 8),
) -> Subject:
    """A runtime of model directories that hold a ``null.json``, with its own way to copy them."""
    source_folder = folder / "model"
    source_folder.mkdir(exist_ok=True)
    source_folder.joinpath("null.json").write_text("{}")

    def is_ours(source: ModelSource) -> bool:
        return source.path is not None and source.path.joinpath("null.json").exists()

    @hookimpl
    def load_model(source: ModelSource) -> NullModel | None:
        return NullModel(source.name, source.adapters) if is_ours(source) else None

    @hookimpl
    def describe_models() -> tuple[ModelCard, ...]:
        return (ModelCard("filed", "in a folder", path=source_folder),)

    @hookimpl
    def quantize_checkpoint(source: ModelSource, job: QuantizeJob) -> Any:
        if source.path is None or not is_ours(source):
            return None
        if job.scheme.bits not in bits:
            raise ConfigError(f"scheme {job.scheme} is unknown")
        return copy(source.path, job)

    @hookimpl
    def identify_model(source: ModelSource) -> ModelMatch | None:
        return ModelMatch("null", "it holds null.json") if is_ours(source) else None

    return subject_of(
        null_with(
            identify_model=identify_model,
            load_model=load_model,
            describe_models=describe_models,
            quantize_checkpoint=quantize_checkpoint,
        )
    )


@breaks("copy-progress")
def falling_progress(folder: Path) -> Subject:
    """Takes a step back."""

    def copy(source: Path, job: QuantizeJob) -> Iterator[QuantizeProgress]:
        yield QuantizeProgress(2, 3)
        yield QuantizeProgress(1, 3)
        shutil.copytree(source, job.destination)
        yield QuantizeProgress(3, 3, finished=True)

    return copying(folder, copy)


@breaks("copy-unfinished")
def half_a_copy(folder: Path) -> Subject:
    """Writes straight to the final place."""

    def copy(source: Path, job: QuantizeJob) -> Iterator[QuantizeProgress]:
        job.destination.mkdir(exist_ok=True)
        job.destination.joinpath("config.json").write_text("{}")
        yield QuantizeProgress(0, 1)
        shutil.copytree(source, job.destination, dirs_exist_ok=True)
        yield QuantizeProgress(1, 1, finished=True)

    return copying(folder, copy)


@breaks("copy-refusals")
def any_scheme(folder: Path) -> Subject:
    """Quantises to whatever is asked."""

    def copy(source: Path, job: QuantizeJob) -> Iterator[QuantizeProgress]:
        shutil.copytree(source, job.destination)
        yield QuantizeProgress(1, 1, finished=True)

    return copying(folder, copy, bits=(3, 4, 8))


def frontend(run: str, **fields: Any) -> ModuleType:
    """A frontend plugin that is started by ``run``."""
    info = FrontendInfo("mine", "one of the broken ones", run, **fields)
    return make_plugin(describe_frontend=hookimpl(lambda: info))
