"""Comparing a tuned model's answers with the base model's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glm_ptuning._retention import build_retention_requests, compare, read_retention_prompts

from glm_core import ConfigError


def test_the_same_answers_are_all_kept() -> None:
    """Equal lists give 100 percent, disjoint ones 0."""
    assert compare(["你好", "b"], ["你好", "b"]).as_metrics() == {
        "retention_exact": 100.0,
        "retention_similarity": 100.0,
    }
    assert compare(["甲乙", "ab"], ["丙丁", "cd"]).as_metrics() == {
        "retention_exact": 0.0,
        "retention_similarity": 0.0,
    }


def test_likeness_is_the_share_of_matching_characters() -> None:
    """Twice the matching characters over both lengths: 巴黎。 to 巴黎 is 4/5; an empty pair is equal."""
    kept = compare(["巴黎。", ""], ["巴黎", ""])
    assert kept.exact == 50.0
    assert kept.similarity == pytest.approx(100 * (4 / 5 + 1) / 2)


def test_the_built_in_questions_are_in_both_languages() -> None:
    """As many Chinese as English questions, none twice."""
    prompts = read_retention_prompts()
    chinese = [prompt for prompt in prompts if re.search("[\u4e00-\u9fff]", prompt)]
    assert len(prompts) == len(set(prompts)) == 24
    assert len(chinese) == 12


def test_a_users_own_questions(tmp_path: Path) -> None:
    """One question a line, blank lines left out; a file without any, or none at all, is refused."""
    path = tmp_path / "questions.txt"
    path.write_text("\ufeff一？\n\n  two? \n", "utf-8")
    assert read_retention_prompts(path) == ("一？", "two?")
    path.write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no question; write one a line"):
        read_retention_prompts(path)
    with pytest.raises(ConfigError, match="retention_file .* cannot be read"):
        read_retention_prompts(tmp_path / "none")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read: 'utf-8' codec"):
        read_retention_prompts(path)


def test_questions_are_asked_greedily() -> None:
    """Sampling would make the score noise."""
    (request,) = build_retention_requests(["q"], "poet")
    assert (request.sampling.do_sample, request.adapter) == (False, "poet")
    assert request.messages[-1].content == "q"
