"""Tokenizers that transformers reads itself, with the chat template that came with the checkpoint.

A template is a Jinja text, which is rendered in a sandbox and in a process of its own, see `template`; no
code of a checkpoint runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from glm_hub.model_files import CONFIG, GENERATION_CONFIG
from transformers import PreTrainedTokenizerFast

from glm_core import CheckpointError, Message

from ..checkpoints.generation_file import EndsFile
from ..checkpoints.integrity import MAX_VOCABULARY_BYTES, check_regular_file, has_file
from ..checkpoints.json_file import check_json_size, read_json
from ..checkpoints.record_file import FileRecord, limit_number, read_record
from .reply_filter import ReplyFilter
from .template import ChatTemplate
from .training_rows import TrainingIds, join_prompt_and_answer

TOKENIZER_FILE = "tokenizer.json"
# A vocabulary of 150,000 pieces has 320,000 merges, each a list of two.
MAX_VOCABULARY_ELEMENTS = 4_000_000
MAX_TEMPLATE_BYTES = 2**20  # published ones have some kilobytes
_JSON_FILES = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
)
TURNS_OF_OTHERS = ("<|user|>", "<|observation|>")


class SettingsFile(FileRecord):
    """What transformers takes from a ``tokenizer_config.json`` without a look at its type."""

    model_max_length: Annotated[float, limit_number(0, 1e31)] | None = None
    padding_side: Literal["left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    clean_up_tokenization_spaces: bool | None = None


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
        self._template = _read_template(directory, self._tokenizer)
        end = self._tokenizer.eos_token_id
        self._control = {
            token.content: index
            for index, token in self._tokenizer.added_tokens_decoder.items()
            if token.special or token.content.startswith("<|")
        }
        self.stop_token_ids = _read_end_ids(directory, self._tokenizer, self._control)
        self.eos_token_id: int = min(self.stop_token_ids, default=0) if end is None else end
        self.pad_token_id: int = self.eos_token_id
        self._control_text = re.compile("|".join(map(re.escape, self._control)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text, without any control token."""
        return self._tokenize(text, split_special_tokens=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        known = [token for token in token_ids if 0 <= token < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def encode_completion(self, text: str) -> list[int]:
        """Return ids of bare text after the control tokens that the tokenizer puts before every text."""
        front: list[int] = self._tokenizer("")["input_ids"]
        return [*front, *self.encode(text)]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a conversation as the checkpoint's template writes it, ready for the assistant."""
        if not any(self._control_text.search(message.content) for message in messages):
            return self._tokenize(self._render([message.content for message in messages], messages))
        # A mark that no template and no tokenizer knows stands for each message's text.
        marks = {f"\ue000{number}\ue001": message for number, message in enumerate(messages)}
        ids: list[int] = []
        for part in re.split("(\ue000\\d+\ue001)", self._render(list(marks), messages)):
            if part in marks:
                ids += self.encode(marks[part].content)
            elif part:
                ids += self._tokenize(part)
        return ids

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return prompt, what the template writes before an answer, answer and end."""
        contents = [message.content for message in messages]
        mark = "\ue000answer\ue001"
        prompt = self._render(contents, messages)
        whole = self._render([*contents, mark], [*messages, Message("assistant", mark)], answered=True)
        between = whole.removeprefix(prompt).partition(mark)[0] if whole.startswith(prompt) else ""
        return join_prompt_and_answer(
            self.encode_chat(messages),
            [*self._tokenize(between), *self.encode(answer)],
            self.eos_token_id,
            max_source_length,
            max_target_length,
            kept_at_end=1,
        )

    def make_reply_filter(self) -> ReplyFilter:
        """Return a filter that strips outer whitespace: these models begin answers with a new line."""
        return ReplyFilter()

    def _render(self, contents: Sequence[str], messages: Sequence[Message], *, answered: bool = False) -> str:
        conversation = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        return self._template.render(conversation, add_generation_prompt=not answered)

    def _tokenize(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        ids: list[int] = encoded["input_ids"]
        return ids


def _read(directory: Path) -> Any:
    path = directory / TOKENIZER_FILE
    if not has_file(path):
        raise CheckpointError(f"{path} is missing: the tokenizer. Take it from the model's page.")
    _check_files(directory)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        tokenizer("")  # some settings are looked at only when a text is encoded
    except Exception as error:  # the library raises bare Exception for a damaged file
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} cannot be read ({reason}); download it again.") from error
    return tokenizer


def _check_files(directory: Path) -> None:
    """Check the files that transformers will read by itself: their sizes, and the keys that it trusts.

    Raises:
        CheckpointError: naming the first that is not as expected.
    """
    check_json_size(directory / TOKENIZER_FILE, MAX_VOCABULARY_BYTES, MAX_VOCABULARY_ELEMENTS)
    for name in _JSON_FILES:
        if has_file(directory / name):
            read_json(directory / name)
    if has_file(directory / _JSON_FILES[0]):
        read_record(directory / _JSON_FILES[0], SettingsFile)
    for template in (*directory.glob("*.jinja"), *directory.glob("additional_chat_templates/*.jinja")):
        check_regular_file(template, MAX_TEMPLATE_BYTES)


def _read_template(directory: Path, tokenizer: Any) -> ChatTemplate:
    try:
        source = tokenizer.get_chat_template()
    except ValueError:  # there is none, or several and none of them is the default
        source = None
    if not isinstance(source, str) or not source:
        raise CheckpointError(
            f"{directory} has no chat template (chat_template.jinja, or in tokenizer_config.json), which "
            "says how a conversation becomes a prompt. Take it from the model's page."
        )
    return ChatTemplate(source, directory.name, tokenizer.special_tokens_map)


def _read_end_ids(directory: Path, tokenizer: Any, control: Mapping[str, int]) -> frozenset[int]:
    """Return the ids that end an answer: of generation_config.json, config.json, tokenizer and format.

    Args:
        directory: of the checkpoint.
        tokenizer: transformers' own.
        control: the control tokens and their ids.
    """
    # Where a turn of somebody else begins, the answer is over, also where conversions of a checkpoint kept
    # but one of the published ends.
    turns = {control[name] for name in TURNS_OF_OTHERS if name in control}
    found: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    for name in (GENERATION_CONFIG, CONFIG):
        path = directory / name
        if has_file(path):
            found |= _read_ends_of_file(path)
    return frozenset(found | turns)


def _read_ends_of_file(path: Path) -> set[int]:
    ends = read_record(path, EndsFile).eos_token_id
    return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}
