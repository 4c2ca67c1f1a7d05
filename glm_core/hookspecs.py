"""The hooks: the stages of running and training a model, and what plugins say of themselves.

The stages run in this order for every model::

    load_model → quantize (if asked for) → place → chat_stream, as often as wanted

Core asks one plugin at a time and only the one that a hook concerns, as its *Answer* says. A runtime
whose ``identify_model`` knows the model can run it on its own devices and on those of backends that
name its kind, and ``--device`` chooses among these. Neither the order of registration nor the alphabet
ever decides, and a plugin need not guard against being asked about another's device.

Rules for every implementation: plain positional parameters without defaults (pluggy ignores or
refuses others; an implementation may leave out parameters it does not need); heavy imports inside
the function; and a ``GlmError`` for what the user can mend.

Only pluggy is imported here at run time.
"""

# mypy: disable-error-code="empty-body"
# A specification has no body, by design.

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .records import (
        BackendInfo,
        ChatRequest,
        Delta,
        FrontendInfo,
        LoadedModel,
        ModelCard,
        ModelMatch,
        ModelSource,
        Placement,
        PredictJob,
        PredictProgress,
        QuantizationScheme,
        QuantizeJob,
        QuantizeProgress,
        RuntimeInfo,
        TrainerInfo,
        TrainJob,
        TrainProgress,
    )

PROJECT = "glm"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def identify_model(source: ModelSource) -> ModelMatch | None:
    """Say whether a model is one of this runtime's, from a cheap look at its files.

    When:    before ``load_model``, as often as core likes, also for models that are not loaded
             after all; must be cheap, load nothing and import no torch.
    Answer:  every runtime must; ``None`` if the model is not yours.

    Args:
        source: a directory, a file, a name, or a model already in memory.

    Returns:
        The kind of the model, by which backends are found, and what told you.

    Raises:
        CheckpointError: it would be yours, but the file that tells so is damaged. Core goes on to the
            other runtimes and says so.
    """


@hookspec(firstresult=True)
def load_model(source: ModelSource, device: str, dtype: str) -> LoadedModel | None:
    """Open a model: read its configuration and tokenizer and map its weights.

    When:    once per model, first. Weights are memory-mapped and checked (present, complete,
             right shapes), not yet copied: ``place`` or ``quantize`` will read them one by one.
    Answer:  the runtime that was chosen among those whose ``identify_model`` knew the source;
             ``None`` if a closer look shows that it is not yours after all.

    Args:
        source: a directory, a file, a name, or a model already in memory.
        device: first device the model will run on, such as ``"cuda:0"``; of your own or of a backend
            that names the kind.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``auto`` is already resolved.

    Returns:
        Any object with ``info`` and ``close()``; it is handed back to the later hooks.

    Raises:
        CheckpointError: the source is yours but damaged, unsafe or incomplete.
        AdapterError: an adapter does not fit the model.
    """


@hookspec(firstresult=True)
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Replace linear layers by the device's quantised ones, layer by layer.

    When:    at most once per model, after ``load_model`` and before ``place``.
    Answer:  the plugin that described the device: a backend, or the runtime for its own; ``None``
             if it cannot work on this model.

    Args:
        model: what ``load_model`` returned.
        scheme: bits and group size; one that the plugin's description lists.

    Returns:
        The model to go on with, usually the same object.

    Raises:
        DeviceError: the scheme cannot run on this device.
    """


@hookspec(firstresult=True)
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Put the weights on the device or devices and make the model ready to prefill.

    When:    once per model, after ``quantize`` and before the first token.
    Answer:  the plugin that described the devices: a backend, or the runtime for its own; ``None``
             if it cannot work on this model.

    Args:
        model: what ``load_model`` or ``quantize`` returned.
        placement: devices in order, and a map if the user splits by hand.

    Returns:
        The placed model, usually the same object.

    Raises:
        OutOfMemoryError: naming the bytes needed and the bytes free.
        DeviceError: a device is absent, or the map does not cover the model.
    """


@hookspec(firstresult=True)
def chat_stream(model: LoadedModel, request: ChatRequest) -> Iterator[Delta] | None:
    """Answer one request as a stream.

    When:    any number of times after ``place``, from any number of threads at once.
    Answer:  the runtime that loaded the model. A plain function that returns an iterator: a
             hook implementation that itself contains ``yield`` could not decline.

    Args:
        model: what ``place`` returned.
        request: validated by core.

    Returns:
        An iterator of `Delta` with a ``close()`` method. Text is final once emitted and never
        splits a character; exactly one last delta has ``finish_reason`` and ``usage``. Closing
        the iterator early cancels the request and frees its KV cache slot.

    Raises:
        RequestError: the prompt does not fit, or names something unknown; before the first delta.
        AdapterError: the adapter is not loaded.
    """


@hookspec(firstresult=True)
def train(model: LoadedModel, job: TrainJob) -> Iterator[TrainProgress] | None:
    """Run or resume a training job.

    When:    once per job, after ``load_model`` and instead of ``quantize`` and ``place``: a trainer
             does both itself, because gradients must pass through the layers.
    Answer:  the trainer that the job names; ``None`` if it cannot train this runtime's models. A
             plain function that returns an iterator.

    Args:
        model: what ``load_model`` returned, its weights not read yet; the caller closes it.
        job: devices, dtype, scheme, output directory and options. A job found in the directory is
            resumed.

    Returns:
        An iterator of `TrainProgress`; the last one is finished. Closing it stops after the
        current step with a checkpoint written.

    Raises:
        ConfigError: an option is unknown or has a bad value; before any weight is read.
    """


@hookspec(firstresult=True)
def predict(model: LoadedModel, job: PredictJob) -> Iterator[PredictProgress] | None:
    """Answer every row of a file and score the answers.

    When:    for ``glm predict``, after ``place``.
    Answer:  the trainer that the job names; ``None`` if it cannot ask this runtime's models. A
             plain function that returns an iterator.

    Args:
        model: what ``place`` returned, its adapters loaded; the caller closes it.
        job: which adapter, output directory and options.

    Returns:
        An iterator of `PredictProgress`; the last one is finished and has the scores. Closing it
        cancels the answers that are running.

    Raises:
        ConfigError: an option is unknown or has a bad value; before anything is asked.
    """


@hookspec(firstresult=True)
def quantize_checkpoint(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress] | None:
    """Write a quantised checkpoint that loads without the original.

    When:    for ``glm quantize``; no model is loaded.
    Answer:  the runtime whose ``identify_model`` knew the source; ``None`` if it cannot quantise
             this one. A plain function that returns an iterator.

    Args:
        source: the directory to read.
        job: where to write and how. A job that was interrupted there goes on where it stopped.

    Returns:
        An iterator of `QuantizeProgress`; the last one is finished. Tensors are read, quantised
        and written one by one. Nothing stands under the final name before everything is written.

    Raises:
        ConfigError: the scheme, method or destination cannot be used; before anything is written.
        CheckpointError: the source is damaged or quantised already.
    """


@hookspec(firstresult=True)
def measure_bandwidth(device: str) -> float | None:
    """Measure how many bytes a second the device can read from its memory.

    When:    for ``glm bench``, on an otherwise idle device; may take a second or two.
    Answer:  the plugin that described the device; ``None`` if it cannot say.

    Args:
        device: such as ``"cpu"`` or ``"cuda:0"``.

    Returns:
        Bytes a second, with all the threads or units that decoding uses.

    Raises:
        DeviceError: the device is absent.
    """


@hookspec
def describe_backend() -> BackendInfo:
    """Say which devices this backend sees, what it can do on them, and for which kinds of models.

    When:    once a command or `glm_core.load`, and for ``glm devices``; must be cheap and must not
             import torch.
    Answer:  every backend.
    """


@hookspec
def describe_runtime() -> RuntimeInfo:
    """Say what ``--runtime`` calls this runtime, and which devices of its own it has.

    When:    as for ``describe_backend``; must be cheap and must not import torch.
    Answer:  every runtime.
    """


@hookspec
def describe_frontend() -> FrontendInfo:
    """Say what ``glm run`` calls this frontend and which options it takes.

    When:    for ``glm run`` and ``glm plugins``; must be cheap.
    Answer:  every frontend.
    """


@hookspec
def describe_models() -> tuple[ModelCard, ...]:
    """Name the models that this plugin ships or knows where to find.

    When:    for ``--model`` and ``glm models``; must be cheap and never touch the network.
    Answer:  any plugin.
    """


@hookspec
def describe_trainer() -> TrainerInfo:
    """Say what ``glm train`` calls this trainer and which options it takes.

    When:    for ``glm train`` and ``glm plugins``; must be cheap.
    Answer:  every trainer.
    """
