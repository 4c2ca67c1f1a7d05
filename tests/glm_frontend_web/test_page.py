"""Small decisions of the page's layout."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import cast

import pytest
from glm_frontend_web._page import (
    build_labels,
    choose_language,
    describe_adapter_menu,
    format_bytes,
    read_settings,
)
from glm_frontend_web._settings import PageSettings
from glm_frontend_web._texts import SAY
from web_support import ScriptedRuntime

from glm_core import ChatModel, ModelInfo, Sampling


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("fr-FR, zh-TW", "zh"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_language_of_the_browser_counts(accepted: str | None, language: str) -> None:
    """The first of Chinese and English that the browser names; English where it names neither."""
    assert choose_language(accepted).language == language


def test_settings_are_read_from_what_components_hold() -> None:
    """An adapter's name may be anything, also that of the entry for the base model."""
    assert read_settings(None, "base", 10.0, 1, 0) == PageSettings("", None, 10, 1.0, 0.0)
    assert read_settings(" x\x00 ", "=base", 0, 0.5, 0.5) == PageSettings("x", "base", 0, 0.5, 0.5)
    assert read_settings("", "==", 0, 0.5, 0.5).adapter == "="


def test_header_says_what_answers_and_on_what() -> None:
    """Device and dtype stand among the facts; a model that does not tell them leaves them out."""
    runtime = ScriptedRuntime()
    header = build_labels(runtime.model, SAY["en"])["header"]["value"]
    assert "6.2B parameters · 2048 tokens of context · 12.4 GB of weights · cpu bfloat16<" in header
    assert " · cpu bfloat16<" in build_labels(runtime.model, SAY["zh"])["header"]["value"]
    silent = ModelInfo("<b>", "f", 0, 16, Sampling())
    model = cast(ChatModel, SimpleNamespace(info=silent, load=None))
    header = build_labels(model, SAY["en"])["header"]["value"]
    assert header.endswith("16 tokens of context</p>")


def test_menu_of_adapters_is_there_where_there_are_some() -> None:
    """The base model comes first; names are cleaned for the eye and whole in the value."""
    info = ModelInfo("m", "f", 0, 16, Sampling(), ("law", "base"))
    assert describe_adapter_menu(info, SAY["en"]) == {
        "label": "Adapter",
        "choices": [("Base model", "base"), ("law", "=law"), ("base", "=base")],
        "visible": True,
    }
    assert describe_adapter_menu(dataclasses.replace(info, adapters=()), SAY["en"])["visible"] is False


def test_numbers_are_written_for_people() -> None:
    """Parameters and bytes with three digits and a unit."""
    assert [format_bytes(number) for number in (12_400_000_000, 6_090_000, 12)] == [
        "12.4 GB",
        "6.09 MB",
        "12 B",
    ]
