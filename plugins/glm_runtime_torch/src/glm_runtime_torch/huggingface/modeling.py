"""ChatGLM-6B as a transformers model: ``generate``, ``chat``, ``stream_chat``, training.

The network is `glm_runtime_torch.architectures.chatglm`; here masks, positions and caches are
translated between what callers of transformers pass and what the network takes.

Axes: B batch · T new tokens · S key positions · V vocabulary · P prefix length
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from glm_core.records import ChatRequest, Message, QuantizationScheme, Sampling, build_messages

from ..adapters.prefix import StoredPrefix
from ..architectures.chatglm import ChatGLM, ChatGLMLayout
from ..checkpoints.reader import WRAPPERS
from ..families.registry import CHATGLM
from ..model.device_map import find_device_map
from ..model.torch_model import TorchModel
from ..network.decoder import compute_language_model_loss
from ..network.layout import lay_out_batch
from ..network.prefix_encoder import PrefixedKeyValues
from ..quantization import expect_stored_form, quantize_in_place
from .configuration import ChatGLMConfig
from .placing import place_by_backend, require_device
from .stored_weights import check_compute_dtype, read_weights

if TYPE_CHECKING:
    from ..network.prefix_encoder import PrefixEncoder
    from .tokenization import ChatGLMTokenizer

PREFIX_DROPOUT = 0.1  # the original's, of `PrefixEncoder`'s output in training
# A backend for the processor would set the threads of a program that is not ours.
PLACED_BY_THE_RUNTIME = ("cpu",)


class ChatGLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """What ``AutoModel.from_pretrained`` returns for ChatGLM-6B checkpoints.

    With ``pre_seq_len`` in the configuration it holds a P-Tuning v2 prefix encoder, and only that
    trains: the rest is frozen.
    """

    network: ChatGLM
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLMLayer"]  # noqa: RUF012 - transformers' own form
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"transformer\.prefix_encoder\."]  # noqa: RUF012

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        network = ChatGLM(config.make_network_config())
        self.transformer, self.lm_head = network.transformer, network.lm_head
        # The network is no submodule, since every name would be there twice. It has the same table of
        # modules, so what replaces a part of the one (resizing, quantisation) replaces it in the other.
        network._modules = self._modules
        self.__dict__["network"] = network
        expect_stored_form(network, config.to_published())
        if config.quantization_embeddings:
            self._tied_weights_keys = {
                f"lm_head.{part}": f"transformer.word_embeddings.{part}"
                for part in ("weight", "weight_scale")
            }
        self.post_init()
        self._freeze_base()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **settings: Any) -> Any:
        """Load as transformers does; with a prefix encoder the rest of the model is frozen.

        What wrappers around a model put in front of all names is left out, as `Checkpoint` does.
        """
        settings.setdefault("key_mapping", {f"^({'|'.join(map(re.escape, WRAPPERS))})+": ""})
        loaded = super().from_pretrained(*arguments, **settings)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_base()
        return loaded

    @classmethod
    def get_init_context(cls, dtype: Any, *arguments: Any, **settings: Any) -> Any:
        """Prepare to build the network in a dtype, as transformers does; refuse one that only stores."""
        check_compute_dtype(dtype)
        return super().get_init_context(dtype, *arguments, **settings)

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *arguments: Any, **settings: Any
    ) -> Any:
        """Fill the model as transformers does, with what `read_weights` finds to be its weights."""
        config = model.config
        stored = {**config.stored_formats, "quantization_bit": config.quantization_bit}
        quantizes = load_config.hf_quantizer is not None
        state_dict = read_weights(
            model, state_dict, checkpoint_files, stored, load_config.dtype, quantizes=quantizes
        )
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *arguments, **settings
        )

    @property
    def prefix_encoder(self) -> PrefixEncoder | None:
        """The P-Tuning v2 prefix encoder, if the configuration has one."""
        return getattr(self.transformer, "prefix_encoder", None)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def tie_weights(self, *arguments: Any, **settings: Any) -> None:
        """Make the head the embedding, also where a file holds another head; the embedding wins."""
        super().tie_weights(*arguments, **settings)
        if self.config.tie_word_embeddings:
            for name in dict(self.lm_head.named_parameters()):
                setattr(self.lm_head, name, getattr(self.transformer.word_embeddings, name))

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run one pass.

        Args:
            input_ids: ``[B, T]``.
            position_ids: ``[B, 2, T]`` (``[B, T]`` without 2D positions); built from
                ``input_ids`` if absent.
            attention_mask: ``[B, S]`` with 0 = padding, or the original's ``[B, 1, T, S]`` bool
                with True = blocked, prefix left out; built from ``input_ids`` if absent.
            past_key_values: a transformers cache.
            inputs_embeds: ``[B, T, D]`` instead of ``input_ids``; needs positions and mask.
            labels: ``[B, T]``; -100 does not count. The loss is in ``loss``.
            use_cache: make a cache if none is passed.
            output_hidden_states: return the input of each block and the final norm's output.
            return_dict: ``False`` returns a tuple.
        """
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        position_ids, visible = self._complete_layout(input_ids, position_ids, attention_mask)
        store, num_prefix = self._choose_store(past_key_values)
        if num_prefix:
            front = visible.new_ones((*visible.shape[:-1], num_prefix))
            visible = torch.cat((front, visible), dim=-1)
        hidden: list[Tensor] | None = [] if output_hidden_states else None
        h = self.network.compute_hidden_states(
            input_ids, position_ids, visible, store, inputs_embeds=inputs_embeds, collected=hidden
        )
        logits = self.network.compute_logits(h)
        output = CausalLMOutputWithPast(
            loss=None if labels is None else compute_language_model_loss(logits, labels),
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=None if hidden is None else tuple(hidden),
        )
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return positions and mask of the tokens that the cache does not hold yet."""
        done = 0 if past_key_values is None else past_key_values.get_seq_length()
        done = max(done - self._prefix_length, 0)
        padding = None if attention_mask is None else attention_mask == 0
        position_ids, visible = lay_out_batch(self._find_layout, input_ids, padding, start=done)
        return {
            "input_ids": input_ids[:, done:],
            "position_ids": position_ids,
            "attention_mask": ~visible,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as transformers does; also takes the masks that this model's tokenizer pads with."""
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            kwargs["attention_mask"] = (~mask[:, 0, -1].bool()).long()  # the last query sees all that is real
        kwargs.pop("position_ids", None)  # rebuilt from the tokens at every step
        kwargs.setdefault("eos_token_id", self.config.eos_token_id)
        kwargs.setdefault("pad_token_id", self.config.pad_token_id)
        return super().generate(inputs, **kwargs)

    def quantize(self, bits: int, *_: Any, **__: Any) -> ChatGLMForConditionalGeneration:
        """Quantise the blocks' linear layers in place, as the original's ``quantize(8 or 4)``."""
        if not self.config.quantization_bit:
            quantize_in_place(self.network, QuantizationScheme(bits))
            self.config.quantization_bit = bits
        return self

    def cuda(self, device: int | torch.device | None = None) -> ChatGLMForConditionalGeneration:
        """Move to an NVIDIA GPU.

        Raises:
            DeviceError: there is none that this PyTorch could use.
        """
        wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda")
        require_device(wanted)
        moved: ChatGLMForConditionalGeneration = super().cuda(device)
        moved.network.route = None
        return moved

    def to(self, *arguments: Any, **settings: Any) -> ChatGLMForConditionalGeneration:
        """Move to a device, or convert; as every module's ``to``.

        Raises:
            DeviceError: this machine has no such device.
        """
        device = torch._C._nn._parse_to(*arguments, **settings)[0]
        if device is not None:
            require_device(device)
            self.network.route = None
        moved: ChatGLMForConditionalGeneration = super().to(*arguments, **settings)
        return moved

    def as_runtime_model(self, name: str, tokenizer: ChatGLMTokenizer) -> TorchModel:
        """Return this model as the runtime's own, sharing weights: for frontends and the engine."""
        encoder = self.prefix_encoder
        return TorchModel(
            name,
            CHATGLM,
            self.network.config,
            self.network,
            tokenizer.chat_tokenizer,
            self.dtype,
            base_adapter=None if encoder is None else StoredPrefix(encoder),
        )

    def chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[tuple[str, str]] | None = None,
        max_length: int = 2048,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        **kwargs: Any,
    ) -> tuple[str, list[tuple[str, str]]]:
        """Answer ``query`` and return the answer and the history with it, as the original.

        Further keywords are `glm_core.Sampling` fields and ``seed``; with ``num_beams`` above 1,
        those of transformers' ``generate``.
        """
        past = [(question, answer) for question, answer in history or []]
        if num_beams > 1:
            settings = {"max_length": max_length, "num_beams": num_beams, "do_sample": do_sample, **kwargs}
            if do_sample:
                settings |= {"top_p": top_p, "temperature": temperature}
            reply = self._chat_with_beams(tokenizer, query, past, settings)
        else:
            steps = self.stream_chat(
                tokenizer, query, past, max_length, do_sample, top_p, temperature, **kwargs
            )
            *_, (reply, _) = steps
        return reply, [*past, (query, reply)]

    def stream_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[tuple[str, str]] | None = None,
        max_length: int = 2048,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        **kwargs: Any,
    ) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield the growing answer and history, as the original; the last step is included."""
        past = [(question, answer) for question, answer in history or []]
        seed = kwargs.pop("seed", None)
        request = ChatRequest(
            build_messages(past, query),
            Sampling(
                max_length=max_length, do_sample=do_sample, top_p=top_p, temperature=temperature, **kwargs
            ),
            seed=seed,
        )
        model = self._start_runtime_model(tokenizer)
        was_training, reply = self.training, ""
        self.eval()
        try:
            for delta in model.stream(request):
                reply += delta.text
                if delta.text or delta.finish_reason:
                    yield reply, [*past, (query, reply)]
        finally:
            model.close()
            self.train(was_training)

    def _start_runtime_model(self, tokenizer: ChatGLMTokenizer) -> TorchModel:
        """Return this model ready for one conversation; on a GPU with the kernels of that GPU's backend."""
        if self.device.type not in PLACED_BY_THE_RUNTIME:
            placed = place_by_backend(self, tokenizer)
            if placed is not None:
                return placed
        model = self.as_runtime_model("model", tokenizer)
        model.start(self.device if self.network.route is None else find_device_map(self.network), slots=1)
        return model

    def _chat_with_beams(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        past: Sequence[tuple[str, str]],
        settings: dict[str, Any],
    ) -> str:
        messages: Sequence[Message] = build_messages(past, query)
        prompt = torch.tensor([tokenizer.chat_tokenizer.encode_chat(messages)], device=self.device)
        output = self.generate(prompt, **settings)[0, prompt.shape[1] :].tolist()
        return tokenizer.chat_tokenizer.make_reply_filter().feed(tokenizer.decode(output), last=True)

    def _freeze_base(self) -> None:
        if self.prefix_encoder is not None:
            self.requires_grad_(False)
            self.prefix_encoder.requires_grad_(True)

    def _find_layout(self, prompt: Sequence[int]) -> ChatGLMLayout:
        return ChatGLMLayout.from_prompt(self.network.config, prompt)

    @property
    def _prefix_length(self) -> int:
        return 0 if self.prefix_encoder is None else self.prefix_encoder.pre_seq_len

    def _complete_layout(
        self, input_ids: Tensor | None, position_ids: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return positions ``[B, R, T]`` and visibility ``[B, 1, T, S]``, the prefix left out."""
        padding = attention_mask == 0 if attention_mask is not None and attention_mask.dim() == 2 else None
        visible = None
        if attention_mask is not None and attention_mask.dim() == 4:
            visible = ~attention_mask.bool()
            visible = visible | ~visible.any(dim=-1, keepdim=True)
        if position_ids is None or visible is None:
            if input_ids is None:
                raise ValueError(
                    "inputs_embeds needs position_ids and a 4D attention_mask: no ids to build them from"
                )
            built_positions, built_visible = lay_out_batch(self._find_layout, input_ids, padding)
            position_ids = built_positions if position_ids is None else position_ids
            visible = built_visible if visible is None else visible
        return (position_ids.unsqueeze(1) if position_ids.dim() == 2 else position_ids), visible

    def _choose_store(self, past_key_values: Cache | None) -> tuple[Any, int]:
        """Return where layers put keys and values, and how many prefix columns the mask still lacks."""
        if self.prefix_encoder is None:
            return past_key_values, 0
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            return past_key_values, self._prefix_length
        dropout = PREFIX_DROPOUT if self.training else 0.0
        return PrefixedKeyValues(self.prefix_encoder(), dropout, past_key_values), self._prefix_length

    def _init_weights(self, module: nn.Module) -> None:
        """Start weights that a checkpoint does not hold (a fresh prefix encoder) as torch makes them."""
        if isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)):
            module.reset_parameters()
