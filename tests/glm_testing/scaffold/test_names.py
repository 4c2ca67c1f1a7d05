"""Tests of the names that ``glm plugin new`` makes and refuses."""

from __future__ import annotations

import pytest
from fake_plugins import plugin
from glm_testing import make_host, null_backend
from glm_testing.scaffold import PackageNames, refuse_taken
from key_words import containing, missing_words

from glm_core import ConfigError
from glm_core.records import FrontendInfo, TrainerInfo


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("backend", "glm-backend-npu", ("glm-backend-npu", "glm_backend_npu", "backend_npu", "npu")),
        ("backend", "my_backend", ("my-backend", "my_backend", "my_backend", "my")),
        ("frontend", "Slack.Bot", ("slack-bot", "slack_bot", "slack_bot", "slack-bot")),
        ("runtime", "glm-llama", ("glm-llama", "glm_llama", "llama", "llama")),
    ],
)
def test_one_name_gives_all_others(kind: str, name: str, expected: tuple[str, ...]) -> None:
    """Distribution, package, entry point, and what users type."""
    names = PackageNames.derive(kind, name)
    assert (names.distribution, names.package, names.plugin, names.short) == expected


@pytest.mark.parametrize("name", ["", "9x", "-a", "a-", "a b", "a/b", "../a", "é", "a" * 31])
def test_name_that_no_package_can_have_is_refused(name: str) -> None:
    """With an example of one that can."""
    with pytest.raises(ConfigError, match=containing("name of a package", "glm-backend-mine")):
        PackageNames.derive("backend", name)


@pytest.mark.parametrize("name", ["class", "json", "asyncio"])
def test_words_of_python_are_refused(name: str) -> None:
    """A package of that name could not be imported, or would hide another."""
    with pytest.raises(ConfigError, match=f"is a word of Python's own; try glm-backend-{name}"):
        PackageNames.derive("backend", name)


def refusal(kind: str, name: str, **modules: object) -> str:
    """Why the name is refused beside these plugins."""
    with pytest.raises(ConfigError) as caught:
        refuse_taken(PackageNames.derive(kind, name), make_host(**modules))
    return str(caught.value)


def test_name_of_an_installed_plugin_is_refused() -> None:
    """Two entry points of one name would be told apart by nobody."""
    message = refusal("backend", "glm-mine", mine=null_backend)
    assert not missing_words(message, "'mine'", "installed already", "glm-mine", "NAME")


def test_name_of_an_installed_package_is_refused() -> None:
    """Also of one that has nothing to do with glm."""
    assert refusal("backend", "pluggy").startswith("a package pluggy 1.")
    assert refusal("backend", "_pytest".strip("_")).startswith("a package pytest ")


def test_what_another_plugin_brings_is_refused() -> None:
    """A device, frontend, model or trainer belongs to whoever described it first."""
    front = plugin(describe_frontend=lambda: FrontendInfo("slack", "", "a:b"))
    train = plugin(describe_trainer=lambda: TrainerInfo("lora", ""))
    assert refusal("frontend", "glm-slack", f=front).startswith("a frontend 'slack' exists already")
    assert refusal("trainer", "glm-lora", t=train).startswith("a trainer 'lora' exists already")
    assert refusal("runtime", "null", n=null_backend).startswith("a device 'null' exists already")


def test_names_of_our_own_packages_are_refused_though_they_are_not_installed() -> None:
    """A user may install them tomorrow."""
    assert refusal("backend", "glm-cuda").startswith("a device 'cuda' exists already")
    assert refusal("frontend", "glm-web").startswith("a frontend 'web' exists already")


def test_free_name_passes() -> None:
    """Nothing is raised for what nobody has."""
    refuse_taken(PackageNames.derive("backend", "glm-quite-free"), make_host(null=null_backend))
