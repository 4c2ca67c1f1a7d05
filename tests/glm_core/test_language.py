"""Tests of the choice between Chinese and English."""

import pytest

from glm_core.language import language


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
    assert language(environ) == expected
