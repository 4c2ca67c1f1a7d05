"""docs/tools.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from glm_runtime_torch.tokenizers.chatglm3_tools import MAX_DEPTH, parse_call
from glm_runtime_torch.tokenizers.tool_reply import MAX_CALL_CHARACTERS
from scripted_tools import answers_in_turn, call_turn, written_answer
from tiny_models import tiny_checkpoint2

import glm_core
from glm_core import ChatModel

TEXT = (Path(__file__).parents[3] / "docs" / "tools.md").read_text("utf-8")


def test_python_code_answers_with_the_tools_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop of the page runs as it stands: a call, its result, and an answer made of it."""
    tokenizer = ChatGLM3Tokenizer(tiny_checkpoint2(tmp_path))
    model, network = answers_in_turn(
        tokenizer,
        written_answer(tokenizer, call_turn("get_weather", "city='北京'"), end="<|observation|>"),
        written_answer(tokenizer, ("", "22 度")),
    )

    def load(name: str, **settings: object) -> ChatModel:
        assert (name, settings) == ("chatglm3-6b", {"quantize": "int4"})
        return model

    monkeypatch.setattr(glm_core, "load", load)
    (code,) = re.findall(r"```python\n(import.*?)```", TEXT, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "22 度\n"
    assert '{"city": "北京", "temperature": 22}' in tokenizer.decode(network.prompts[1])


def test_example_of_a_call_is_one() -> None:
    """What the page shows as the model's own writing is read as a call."""
    (example,) = re.findall(r"^    get_weather\n((?:    .*\n)+)", TEXT, re.MULTILINE)
    assert parse_call(example.replace("    ", "")) == '{"city": "北京", "days": 3}'


def test_limits_are_those_of_the_code() -> None:
    """Depth and length of what is taken for a call."""
    assert f"up to {MAX_DEPTH} deep and {MAX_CALL_CHARACTERS:,} characters" in TEXT
