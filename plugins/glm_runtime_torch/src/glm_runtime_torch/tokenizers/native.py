"""Tokenizers that transformers reads itself, with the chat template that came with the checkpoint.

A template is a Jinja text, which transformers renders in a sandbox; no code of a checkpoint runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm_hub.model_files import CONFIG, GENERATION_CONFIG
from transformers import PreTrainedTokenizerFast

from glm_core import CheckpointError, Message, RequestError

from ..checkpoints.integrity import check_not_lfs_pointer
from .reply_filter import ReplyFilter
from .training_rows import TrainingIds, prompt_and_answer

TOKENIZER_FILE = "tokenizer.json"


class NativeTokenizer:
    """A ``tokenizer.json`` and a chat template as `glm_runtime_torch.tokenizers.ChatTokenizer` asks for.

    Control tokens typed as text stay text: where a message holds one, the template's own text and the
    message are encoded apart.

    Args:
        directory: holds ``tokenizer.json``, ``tokenizer_config.json`` and, beside or in it, the template.

    Raises:
        CheckpointError: a file is missing or damaged, or there is no chat template.
    """

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        self._tokenizer = _read(directory)
        self.vocab_size: int = max(self._tokenizer.get_vocab().values()) + 1
        self.stop_token_ids = _ends(directory, self._tokenizer)
        end = self._tokenizer.eos_token_id
        self.eos_token_id: int = min(self.stop_token_ids, default=0) if end is None else end
        self.pad_token_id: int = self.eos_token_id
        self._control = {
            token.content: index
            for index, token in self._tokenizer.added_tokens_decoder.items()
            if token.special or token.content.startswith("<|")
        }
        self._control_text = re.compile("|".join(map(re.escape, self._control)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text, without any control token."""
        return self._ids(text, split_special_tokens=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        known = [token for token in token_ids if 0 <= token < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def completion_prompt(self, text: str) -> list[int]:
        """Return ids of bare text after the control tokens that the tokenizer puts before every text."""
        front: list[int] = self._tokenizer("")["input_ids"]
        return [*front, *self.encode(text)]

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a conversation as the checkpoint's template writes it, ready for the assistant."""
        if not any(self._control_text.search(message.content) for message in messages):
            return self._ids(self._render([message.content for message in messages], messages))
        # A mark that no template and no tokenizer knows stands for each message's text.
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        ids: list[int] = []
        for part in re.split("(\ue000\\d+\ue001)", self._render(marks, messages)):
            if part in marks:
                ids += self.encode(messages[marks.index(part)].content)
            elif part:
                ids += self._ids(part)
        return ids

    def training_ids(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return prompt, what the template writes before an answer, answer and end."""
        contents = [message.content for message in messages]
        mark = "\ue000answer\ue001"
        prompt = self._render(contents, messages)
        whole = self._render([*contents, mark], [*messages, Message("assistant", mark)], answered=True)
        between = whole.removeprefix(prompt).partition(mark)[0] if whole.startswith(prompt) else ""
        return prompt_and_answer(
            self.chat_prompt(messages),
            [*self._ids(between), *self.encode(answer)],
            self.eos_token_id,
            max_source_length,
            max_target_length,
            kept_at_end=1,
        )

    def reply_filter(self) -> ReplyFilter:
        """Return a filter that strips outer whitespace: these models begin answers with a new line."""
        return ReplyFilter()

    def _render(self, contents: Sequence[str], messages: Sequence[Message], *, answered: bool = False) -> str:
        conversation = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        try:
            text: str = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=not answered
            )
        except Exception as error:  # whatever a template raises, jinja2's own errors included
            raise RequestError(f"the model's chat template refuses this conversation: {error}") from error
        return text

    def _ids(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        ids: list[int] = encoded["input_ids"]
        return ids


def _read(directory: Path) -> Any:
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the tokenizer. Take it from the model's page.")
    check_not_lfs_pointer(path)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from error
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"{directory} has no chat template (chat_template.jinja, or in tokenizer_config.json), which "
            "says how a conversation becomes a prompt. Take it from the model's page."
        )
    return tokenizer


def _ends(directory: Path, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer: of generation_config.json, config.json and the tokenizer."""
    found: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    for name in (GENERATION_CONFIG, CONFIG):
        path = directory / name
        if path.is_file():
            ends = json.loads(path.read_text("utf-8")).get("eos_token_id")
            found |= set(ends) if isinstance(ends, list) else set() if ends is None else {ends}
    return frozenset(found)
