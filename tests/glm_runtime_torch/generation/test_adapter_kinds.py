"""A kind of adapter that the engine has never heard of, beside prefixes and none in one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from glm_backend_cuda._executor import RecordedExecutor
from glm_runtime_torch.adapters.adapter import Adapter, CombinedAdapter, StepHook, StoredAdapter
from glm_runtime_torch.adapters.prefix import PrefixAdapter
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model import torch_model
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.language_model import LanguageModel
from recorded_steps import RerunningRecorder, TensorAttention
from tiny_models import tiny_checkpoint2
from torch import Tensor, nn

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")
# Longer than a piece of a prompt, so that slots keep some of it for later.
QUESTION = "how do I quantise a model 晚上睡不着应该怎么办 " * 24


class BiasHook:
    """Adds to the output of a network's final norm what each row's adapter says."""

    def __init__(self, network: LanguageModel) -> None:
        self.rows: Tensor | None = None
        network.final_norm.register_forward_hook(self._add)

    @contextmanager
    def apply(self, rows: Sequence[tuple[Adapter, ...]]) -> Iterator[None]:
        nothing = torch.zeros(())
        biases = [sum((one.bias for one in row if isinstance(one, BiasAdapter)), nothing) for row in rows]
        self.rows = torch.stack([bias.expand(self.width) for bias in biases]).unsqueeze(1)
        yield
        self.rows = None

    width = 0

    def _add(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output if self.rows is None else output + self.rows


class BiasAdapter(Adapter):
    """One bias ``[D]``."""

    kind = "bias"

    def __init__(self, name: str, bias: Tensor, hook: StepHook) -> None:
        super().__init__(name, f"bias:{hashlib.sha256(bias.numpy().tobytes()).hexdigest()}")
        self.bias = bias
        self.step_hook = hook


class StoredBias:
    """A bias that follows from a seed."""

    kind = "bias"
    num_positions = 0

    def __init__(self, seed: int, hook: BiasHook) -> None:
        self._seed = seed
        self._hook = hook

    def count_bytes(self, dtype: torch.dtype) -> int:
        return self._hook.width * dtype.itemsize

    def place(
        self, name: str, network: LanguageModel, device: torch.device, dtype: torch.dtype
    ) -> BiasAdapter:
        generator = torch.Generator().manual_seed(self._seed)
        return BiasAdapter(name, torch.randn(self._hook.width, generator=generator) * 2, self._hook)


class Opened:
    """A model that serves two prefixes, two biases, and one of each together."""

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        self.hook = BiasHook(model.network)
        self.hook.width = model.network.dimensions.hidden_size
        for number in (0, 1):
            for make in (self.place_bias, self.place_prefix):
                model.engine.adapters.add(make(number))
        members = [self.place_prefix(0), self.place_bias(0)]
        model.engine.adapters.add(CombinedAdapter("both", members))

    def place_bias(self, number: int) -> Adapter:
        stored: StoredAdapter = StoredBias(number, self.hook)
        return stored.place(f"bias {number}", self.model.network, CPU, torch.float32)

    def place_prefix(self, number: int) -> Adapter:
        sizes = self.model.network.dimensions
        shape = (sizes.num_layers, 2, sizes.num_kv_heads, 4, sizes.head_dim)
        generator = torch.Generator().manual_seed(number)
        return PrefixAdapter(f"prefix {number}", torch.randn(shape, generator=generator) * 3)

    @property
    def names(self) -> list[str | None]:
        return [None, *self.model.engine.adapters.names]

    def ask(self, names: Sequence[str | None]) -> list[list[int]]:
        """Tokens of one answer for each adapter, asked at the same time."""
        sampling = Sampling(do_sample=False, max_new_tokens=8, ignore_eos=True)
        requests = [ChatRequest((Message("user", QUESTION),), sampling, adapter=name) for name in names]
        streams = [self.model.stream(request) for request in requests]
        return [[token for delta in stream for token in delta.token_ids] for stream in streams]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint2(tmp_path_factory.mktemp("kinds") / "model")


@pytest.fixture(scope="module")
def open_model(directory: Path) -> Iterator[Callable[..., Opened]]:
    """Opens one, with `TorchModel.start`'s settings."""
    models = []

    def open_one(**settings: object) -> Opened:
        model = open_source(ModelSource("tiny", directory), "float32")
        assert model is not None
        model.materialize(CPU)
        model.start(CPU, slots=6, context_length=1024, **settings)  # type: ignore[arg-type]
        models.append(model)
        return Opened(model)

    yield open_one
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def opened(open_model: Callable[..., Opened]) -> Opened:
    return open_model()


def test_kinds_share_a_batch(opened: Opened) -> None:
    """Six requests of three kinds, both and none decode together, each with the tokens that it has alone."""
    alone = [opened.ask([name])[0] for name in opened.names]
    assert len({tuple(answer) for answer in alone}) == 6
    assert opened.ask(opened.names) == alone
    assert opened.hook.rows is None


def test_hook_hears_only_of_rows_that_are_its_own(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch without such adapters runs outside of any context; prefixes are not handed to it."""
    heard: list[list[tuple[str, ...]]] = []
    apply = opened.hook.apply

    def note(rows: Sequence[tuple[Adapter, ...]]) -> object:
        heard.append([tuple(adapter.name for adapter in row) for row in rows])
        return apply(rows)

    monkeypatch.setattr(opened.hook, "apply", note)
    opened.ask([None, "prefix 0"])
    assert heard == []
    opened.ask([None, "prefix 0", "bias 1", "both"])
    assert {row for rows in heard for row in rows} == {(), ("bias 1",), ("bias 0",)}


def test_prompts_are_reused_for_the_same_combination_only(opened: Opened) -> None:
    """The content key of two adapters together is neither's, and prompts behind it are found again."""
    engine = opened.model.engine
    keys = {engine.adapters.get(name).content_key for name in engine.adapters.names}
    assert len(keys) == 5
    again = CombinedAdapter("twin", [opened.place_prefix(0), opened.place_bias(0)])
    assert again.content_key in keys
    engine.forget_prompts()
    expected = opened.ask(["both"])
    engine.adapters.add(again)
    sampling = Sampling(do_sample=False, max_new_tokens=8, ignore_eos=True)
    deltas = list(opened.model.stream(ChatRequest((Message("user", QUESTION),), sampling, adapter="twin")))
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.cached_tokens > 0
    assert [[token for delta in deltas for token in delta.token_ids]] == expected
    engine.adapters.remove("twin")


def test_recorded_steps_leave_changing_layers_to_the_network(
    opened: Opened, open_model: Callable[..., Opened]
) -> None:
    """A recording knows one way of computing; rows with such adapters are computed without it."""
    recorder = RerunningRecorder()
    recorded = open_model(
        attention=TensorAttention(),
        executor=lambda network, cache: RecordedExecutor(network, cache, CPU, recorder),
    )
    assert recorded.ask(["bias 0"]) == opened.ask(["bias 0"])
    assert recorder.recorded == 0
    assert recorded.ask(["prefix 0"]) == opened.ask(["prefix 0"])
    assert recorder.replayed == 7


@pytest.mark.parametrize(
    "other",
    [
        torch.full((1, 2, 1, 3, 2), 1.0).index_fill(3, torch.tensor([2]), 1.0000001),
        torch.full((1, 2, 1, 3, 2), 1.0, dtype=torch.float16),
        torch.full((1, 2, 1, 6, 1), 1.0),
    ],
    ids=["one bit", "dtype", "shape"],
)
def test_prefixes_that_differ_in_anything_have_keys_of_their_own(other: Tensor) -> None:
    """Equal keys promise equal effect, so every bit counts; the name does not."""
    prefix = torch.full((1, 2, 1, 3, 2), 1.0)
    assert PrefixAdapter("a", prefix).content_key == PrefixAdapter("b", prefix.clone()).content_key
    assert PrefixAdapter("a", prefix).content_key != PrefixAdapter("a", other).content_key


def test_model_takes_the_kind_that_the_files_are_of(
    open_model: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`load_adapter` alone decides the kind; the model that an adapter is added to knows none."""
    opened = open_model()
    monkeypatch.setattr(torch_model, "load_adapter", lambda *_: StoredBias(1, opened.hook))
    opened.model.add_adapter("added", tmp_path)
    assert opened.model.engine.adapters.get("added").kind == "bias"
    assert opened.ask(["added"]) == opened.ask(["bias 1"]) != opened.ask([None])
