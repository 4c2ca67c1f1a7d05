"""Tests of the choice between Chinese and English."""

import pytest

from glm_core.language import format_count, get_language


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "ZH_tw"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LC_MESSAGES": "en_US.UTF-8", "LC_ALL": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}, "zh"),
        ({"GLM_LANG": "en", "LC_ALL": "zh_CN.UTF-8"}, "en"),
        ({"GLM_LANG": "zh", "LC_ALL": "C"}, "zh"),
    ],
)
def test_first_variable_that_is_set_decides(environ: dict[str, str], expected: str) -> None:
    """GLM_LANG, then LC_ALL, LC_MESSAGES and LANG; an empty one says nothing; English is the default."""
    assert get_language(environ) == expected


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1_500, "1.5K"), (6_173_286_400, "6.17B"), (340_000, "340K")]
)
def test_counts_are_shortened_for_people(number: int, text: str) -> None:
    """Parameters are shown as papers do."""
    assert format_count(number) == text
