"""Chat templates of strangers: what they may take, and that honest ones render as in transformers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from glm_runtime_torch.tokenizers import template as module
from glm_runtime_torch.tokenizers.template import ChatTemplate
from tiny_native import TEMPLATE, byte_tokenizer

from glm_core import CheckpointError, RequestError

MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "你好 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")},
    {"role": "assistant", "content": "<b>hello</b> 'x' & \"y\""},
    {"role": "user", "content": "more\n"},
]
HONEST = {
    "plain": TEMPLATE,
    "loop controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{{ loop.index0 }}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.last = m['content'] %}{% endfor %}{{ ns.n }}{{ ns.last }}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ dict(a=1) | tojson }}",
    "special tokens": "{{ eos_token }}{{ pad_token }}{% if tools is none %}no tools{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "blocks are trimmed": "a\n{% if add_generation_prompt %}\n  b\n{% endif %}\n  {% set x = 1 %}\nc",
    "macro": "{% macro say(m) %}<{{ m.role | upper }}>{{ m.content | trim }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
    "clock": "{{ strftime_now('%Y') }}",
    "methods": "{{ messages[1].content.split(' ') | join('-') }}{{ messages[0].get('name', 'nobody') }}",
}
REFUSED = {
    "says no": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "no Jinja": ("{% for %}", "refuses this conversation"),
    "missing": ("{{ messages[0].nothing.at.all }}", "refuses this conversation"),
    "reaches for Python": ("{{ ''.__class__.__mro__ }}", "refuses this conversation|unsafe"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses this conversation"),
    "huge complaint": ("{{ raise_exception('x' * 100000) }}", "x{100}"),
}
BOUNDLESS = {
    "nested loops": "{% set r = range(90000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "a long string": "{{ ('a' * 10 ** 10) | length }}",
    "a wide format": "{{ '%01000000000000d' % 1 }}",
    "a wide method": "{{ 'a'.ljust(10 ** 10) }}",
    "doubling": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x | length }}",
    "a large number": "{{ 10 ** (10 ** 10) }}",
    "a long list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}",
    "much text": "{% for i in range(90000) %}{{ 'abcdefghij' * 100 }}{% endfor %}",
    "replacing": "{{ ('a' * 100000).replace('a', 'b' * 1000000) | length }}",
    "powers of powers": "{{ (7 ** (9 ** 9)) % 10 }}",
}


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that are met soon."""
    monkeypatch.setattr(module, "PROCESSOR_SECONDS", 1)
    monkeypatch.setattr(module, "MEMORY_BYTES", 256 * 2**20)


@pytest.fixture
def template() -> Iterator[ChatTemplate]:
    """An honest template."""
    made = ChatTemplate(TEMPLATE, "tiny", {})
    yield made
    made.close()


def render(source: str, messages: Any = MESSAGES) -> str:
    """Render once."""
    made = ChatTemplate(source, "tiny", byte_tokenizer(source).special_tokens_map)
    try:
        return made.render(messages, add_generation_prompt=True)
    finally:
        made.close()


@pytest.mark.parametrize("source", HONEST.values(), ids=HONEST)
def test_honest_templates_render_as_in_transformers(source: str) -> None:
    """Whatever a published template makes use of gives the text that transformers gives."""
    expected = byte_tokenizer(source).apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True
    )
    assert render(source) == expected


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_are_one_short_sentence(source: str, message: str) -> None:
    """A template's own complaint, and every error in it, is the request's; long ones are cut."""
    with pytest.raises(RequestError, match=message) as refused:
        render(source)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
@pytest.mark.parametrize("source", BOUNDLESS.values(), ids=BOUNDLESS)
@pytest.mark.usefixtures("small_bounds")
def test_boundless_templates_are_stopped(source: str) -> None:
    """Time, memory and output have bounds; the error names the model and what to do."""
    with pytest.raises(RequestError, match="tiny.*more than|refuses this conversation"):
        render(source)


@pytest.mark.usefixtures("small_bounds")
def test_a_stopped_template_harms_no_other_conversation() -> None:
    """After a conversation on which a template hangs, the next is rendered as ever."""
    source = (
        "{% if messages | length == 1 %}{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}"
    )
    made = ChatTemplate(source + "{% endfor %}{% endif %}{{ messages[0].content }}", "tiny", {})
    with pytest.raises(RequestError, match="processor time"):
        made.render(MESSAGES[:1], add_generation_prompt=True)
    assert made.render(MESSAGES, add_generation_prompt=True) == "be brief"
    made.close()


def test_output_may_grow_with_the_conversation(template: ChatTemplate) -> None:
    """A conversation of megabytes is no reason to stop its template."""
    messages = [{"role": "user", "content": "x" * 4_000_000}]
    assert len(template.render(messages, add_generation_prompt=False)) > 4_000_000


def test_many_threads_may_render(template: ChatTemplate) -> None:
    """Conversations that come at the same time get each its own text."""
    with ThreadPoolExecutor(8) as threads:
        contents = [f"question {number}" for number in range(64)]
        texts = threads.map(
            lambda content: template.render(
                [{"role": "user", "content": content}], add_generation_prompt=False
            ),
            contents,
        )
        assert [text.removeprefix("[gMASK]<sop><|user|>\n") for text in texts] == contents


def test_a_process_that_was_ended_is_replaced(template: ChatTemplate) -> None:
    """Whoever looks for memory may end the process between two conversations: another is started."""
    whole = template.render(MESSAGES, add_generation_prompt=True)
    process = template._process
    assert process is not None
    process.kill()
    process.wait()
    assert template.render(MESSAGES, add_generation_prompt=True) == whole


def test_the_process_ends_with_its_template() -> None:
    """Nothing is left running, nor waiting to be collected, once a tokenizer is gone."""
    made = ChatTemplate(TEMPLATE, "tiny", {})
    made.render(MESSAGES, add_generation_prompt=True)
    process: subprocess.Popen[bytes] | None = made._process
    assert process is not None
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_template_of_megabytes_is_refused_at_once() -> None:
    """A file that is no template is not read as one."""
    with pytest.raises(CheckpointError, match="tiny.*2,000,000 characters"):
        ChatTemplate("x" * 2_000_000, "tiny", {})


def test_a_long_template_reaches_its_process() -> None:
    """A template longer than what a command line holds is rendered."""
    assert render("x" * 250_000) == "x" * 250_000
