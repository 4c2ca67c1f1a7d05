"""Small decisions of the page's layout."""

import pytest
from glm_frontend_web._conversation import Settings
from glm_frontend_web._page import human_bytes, human_count, initial_language, settings_of


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
def test_the_language_of_the_browser_counts(accepted, language):
    """The first of Chinese and English that the browser names; English where it names neither."""
    assert initial_language(accepted).language == language


def test_settings_are_read_from_what_components_hold():
    """An adapter's name may be anything, also that of the entry for the base model."""
    assert settings_of(None, "base", 10.0, 1, 0) == Settings("", None, 10, 1.0, 0.0)
    assert settings_of(" x\x00 ", "=base", 0, 0.5, 0.5) == Settings("x", "base", 0, 0.5, 0.5)
    assert settings_of("", "==", 0, 0.5, 0.5).adapter == "="


def test_numbers_are_written_for_people():
    """Parameters and bytes with three digits and a unit."""
    assert [human_count(number) for number in (6_200_000_000, 3_040_000, 999)] == ["6.2B", "3.04M", "999"]
    assert [human_bytes(number) for number in (12_400_000_000, 6_090_000, 12)] == [
        "12.4 GB",
        "6.09 MB",
        "12 B",
    ]
