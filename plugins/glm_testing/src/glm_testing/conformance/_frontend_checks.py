"""Checks of frontends, run on the scripted model in their own process and used through their driver."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import ipaddress
import re
import socket
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from ..driver import FrontendProcess
from ..scripted_model import LONG_ANSWER
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

FRONTEND = "describe_frontend"
_ADDRESS_OPTIONS = ("host", "bind", "address", "server_name", "listen")
_MULTIBYTE = "你好 世界 größte Überraschung 🎉 fin"
_HOSTILE_HTML = (
    '<script>glm_hit()</script> <img src=x onerror="glm_hit()"> [press](javascript:glm_hit()) '
    "<a href='java&#115;cript:glm_hit()'>here</a>"
)
_HOSTILE_TERMINAL = "red \x1b[31mtext \x1b]0;glm_hit\x07 and \x9b2J end"


@check("frontend-run", "run names a function that takes open_model and options", FRONTEND)
def check_frontend_run(subject: Subject) -> None:
    """Check that it can be imported, and called with two arguments."""
    module_name, _, name = subject.frontend_info.run.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # of the plugin's own modules
        raise BrokenError(
            f"{subject.frontend_info.run} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        inspect.signature(function).bind(lambda: None, {})
    except TypeError as error:
        raise BrokenError(
            f"{subject.frontend_info.run} cannot be called with open_model and options: {error}"
        ) from error


@check("frontend-loopback", "a frontend listens on loopback unless told otherwise", FRONTEND)
def check_frontend_loopback(subject: Subject) -> None:
    """Check the default of an option that names an address."""
    options = [option for option in subject.frontend_info.options if option.name in _ADDRESS_OPTIONS]
    if not options:
        raise NotApplicableError(f"it has no option called {', '.join(_ADDRESS_OPTIONS)}")
    for option in options:
        expect(
            _is_loopback(option.default),
            f"option {option.name} is {option.default!r} by default; other machines could use the model",
        )


def _is_loopback(host: object) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@check("frontend-converses", "a frontend passes on questions and whole answers", FRONTEND)
def check_frontend_converses(subject: Subject) -> None:
    """Ask for two turns, characters of several bytes, and a long answer."""
    driver = subject.frontend
    for question, expected in (
        ("say hello from the model", "hello from the model"),
        (f"say {_MULTIBYTE}", _MULTIBYTE),
        ("long", LONG_ANSWER),
    ):
        answer = driver.ask(question)
        expect(
            _normalize(expected) in _normalize(answer),
            f"asked {question!r} the user gets {_shorten(answer)!r}; expected {_shorten(expected)!r}",
        )


@check("frontend-survives", "a failing answer ends that answer and nothing else", FRONTEND)
def check_frontend_survives(subject: Subject) -> None:
    """Ask on after an error of the device, a refusal and a bug of the runtime."""
    driver = subject.frontend
    for question in ("fail halfway", "refuse", "crash halfway"):
        with contextlib.suppress(Exception):  # how the error reaches the user is the frontend's business
            driver.ask(question)
        answer = driver.ask("say still here")
        expect("still here" in answer, f"after {question!r} a question is answered with {_shorten(answer)!r}")
    expect(
        "Traceback" not in driver.frontend.errors, f"users see a traceback:\n{driver.frontend.errors[-2000:]}"
    )


@check("frontend-cancels", "an answer is cancelled when its reader leaves", FRONTEND)
def check_frontend_cancels(subject: Subject) -> None:
    """Check that the stream is closed, so that the model works for nobody."""
    driver = subject.frontend
    driver.begin("forever")
    expect(driver.frontend.wait_for_event("begun", "forever"), "the question never reached the model")
    driver.leave()
    expect(
        driver.frontend.wait_for_event("closed", "forever"),
        f"{subject.patience:g} seconds after its reader left the answer still runs",
    )


@check("frontend-escapes", "what a model says cannot act on the user's screen", FRONTEND)
def check_frontend_escapes(subject: Subject) -> None:
    """Look for scripts, handlers and links of an answer in HTML, for control sequences in a terminal."""
    shows = subject.driver.shows if subject.driver else "data"
    driver = subject.frontend
    if shows == "data":
        raise NotApplicableError("its answers go to programs, which get them as they are")
    if shows == "terminal":
        driver.ask(f"say {_HOSTILE_TERMINAL}")
        output = driver.read_page()
        found = [part for part in ("\x1b[31m", "\x1b]0;", "\x9b2J", "\x07") if part in output]
        expect(not found, f"control sequences of an answer reach the terminal: {found!r}")
        return
    driver.ask(f"say {_HOSTILE_HTML}")
    page = driver.read_page()
    parser = _ActiveParts()
    parser.feed(page)
    expect("glm_hit" in page, "the page does not hold the answer at all; is the driver's page() right?")
    expect(not parser.found, f"an answer puts active HTML into the page: {', '.join(parser.found)}")


@check("frontend-stops", "a frontend ends cleanly when its user ends it", FRONTEND)
def check_frontend_stops(subject: Subject) -> None:
    """Check that there is no traceback and the model is closed."""
    driver = subject.frontend
    driver.ask("say one more")
    driver.stop()
    try:
        status = driver.frontend.wait()
        expect(status is not None, f"{subject.patience:g} seconds later it still runs")
        expect(status in (0, 130), f"it ends with status {status}: {driver.frontend.errors[-2000:]}")
        expect("Traceback" not in driver.frontend.errors, f"it ends with:\n{driver.frontend.errors[-2000:]}")
        expect(driver.frontend.wait_for_event("model closed"), "it ends without closing the model")
    finally:
        subject.forget_frontend()


@check("frontend-options", "wrong options are refused before the model is opened", FRONTEND)
def check_frontend_options(subject: Subject) -> None:
    """Check that it is one sentence, without a traceback."""
    if subject.driver is None:
        raise NotApplicableError("no driver is given; name one with --glm-driver MODULE:CLASS")
    port_option = subject.driver.port_option
    bad = subject.driver.bad_options or ({port_option: 70000} if port_option else {})
    if not bad:
        raise NotApplicableError("its driver names no bad_options")
    with subject.open_frontend_process() as process:
        process.start(bad)
        _expect_refusal(process, f"options {bad}")


@check("frontend-busy-port", "a port that is in use is refused before the model is opened", FRONTEND)
def check_frontend_busy_port(subject: Subject) -> None:
    """Check that one sentence names the port, without a traceback."""
    if subject.driver is None:
        raise NotApplicableError("no driver is given; name one with --glm-driver MODULE:CLASS")
    option = subject.driver.port_option
    if option is None:
        raise NotApplicableError("it listens on no port")
    with socket.create_server(("127.0.0.1", 0)) as taken, subject.open_frontend_process() as process:
        port = taken.getsockname()[1]
        process.start({option: port})
        _expect_refusal(process, f"port {port}, which is in use")
        expect(
            str(port) in process.errors, f"the message does not name port {port}: {process.errors.strip()}"
        )


def _expect_refusal(process: FrontendProcess, what: str) -> None:
    status = process.wait()
    expect(status is not None, f"started with {what}, it runs")
    errors = process.errors.strip()
    expect("Traceback" not in errors, f"started with {what}, it says:\n{errors[-2000:]}")
    expect(status == 2, f"started with {what}, it raises no GlmError and ends with status {status}: {errors}")
    expect(process.count_events("opened") == 0, f"started with {what}, it opens the model before it refuses")
    expect(errors.removeprefix("glm:").strip(), f"started with {what}, it says nothing")


class _ActiveParts(HTMLParser):
    """A parser that finds elements and attributes by which text of an answer would run as a program."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            text = re.sub(r"\s", "", value or "").lower()
            if "glm_hit" in text and (name.startswith("on") or text.startswith("javascript:")):
                self.found.append(f"<{tag} {name}={value!r}>")

    def handle_data(self, data: str) -> None:
        if self._in_script and "glm_hit" in data:
            self.found.append("<script>")


def _normalize(text: str) -> str:
    return " ".join(text.split())


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]}...{text[-100:]}"
