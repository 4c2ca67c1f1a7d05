"""Tests of the ``glm`` command itself: help, exit status, what it imports, what it never prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from child_process import clean_environment
from fake_plugins import run_glm, run_python
from patience import PATIENCE_SECONDS

from glm_core import GlmError, PluginError, __version__, cli as glm_cli

HEAVY = ("torch", "transformers", "gradio", "fastapi", "numpy")
IMPORTS = f"""
import contextlib, io, json, sys
from glm_core.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    status = main(sys.argv[1:])
print(json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Puts a function in the place of the module of ``glm models``."""

    def replace(run: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("glm_core.cli.models")
        vars(module)["run"] = run
        monkeypatch.setitem(sys.modules, "glm_core.cli.models", module)

    return replace


def raising(error: BaseException) -> Callable[[list[str]], int]:
    """A command that ends with ``error``."""

    def run(arguments: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``glm`` alone is a question for help, and succeeds."""
    monkeypatch.setenv("GLM_LANG", "en")
    assert glm_cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("usage: glm COMMAND [OPTION ...]\n")
    for name, (summary, _) in glm_cli.COMMANDS.items():
        assert f"  {name}" in printed.out
        assert summary in printed.out


def test_help_is_chinese_where_the_locale_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole text, not only its headings."""
    monkeypatch.setenv("GLM_LANG", "zh_CN.UTF-8")
    glm_cli.main([])
    text = capsys.readouterr().out
    assert text.startswith("用法：glm 命令 [选项]\n")
    assert all(summary in text for _, summary in glm_cli.COMMANDS.values())
    assert "usage" not in text


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_printed(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, for bug reports."""
    assert glm_cli.main([option]) == 0
    assert capsys.readouterr().out == f"glm {__version__}\n"


@pytest.mark.parametrize("name", glm_cli.COMMANDS)
def test_help_of_a_command_is_reached_in_two_ways(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``glm help NAME`` is ``glm NAME --help``, and ``-h`` is short for it."""
    texts = set()
    for arguments in (["help", name], [name, "--help"], [name, "-h"]):
        assert glm_cli.main(arguments) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1
    assert texts.pop().startswith(f"usage: glm {name}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("chta", "glm: unknown command 'chta'; did you mean 'chat'?\n"),
        (
            "xyzzy",
            f"glm: unknown command 'xyzzy'; one of: {', '.join(glm_cli.COMMANDS)}\n",
        ),
        ("_options", "glm: unknown command '_options'; one of: run, chat, "),
        ("--model", "glm: unknown option '--model'; the command comes first: glm COMMAND [OPTION ...]\n"),
    ],
)
def test_unknown_command_is_refused(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and status 2."""
    assert glm_cli.main([argument, "more"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)


@pytest.mark.parametrize("name", glm_cli.COMMANDS)
def test_unknown_flag_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also an abbreviation is unknown: a new option must not change what a script means."""
    for flag in ("--xyzzy", "--hel"):
        assert glm_cli.main([name, flag]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert f"glm {name}: error: " in printed.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["plugins"], ["models"], ["devices"], ["run", "--help"], ["chat", "--help"]],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    """With every plugin of this installation, these commands start no numerical library and no server."""
    done = run_python("-c", IMPORTS, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, []]


def test_error_for_the_user_is_one_line(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the message, no traceback."""
    command(raising(GlmError("too small")))
    assert glm_cli.main(["models"]) == 2
    assert capsys.readouterr().err == "glm: too small\n"


def test_error_for_the_user_has_a_traceback_on_request(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``GLM_DEBUG=1`` shows where a plugin failed, before the same line."""
    monkeypatch.setenv("GLM_DEBUG", "1")
    error = PluginError("failed")
    error.__cause__ = ZeroDivisionError("the cause")
    command(raising(error))
    assert glm_cli.main(["models"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: the cause" in lines
    assert lines[-1] == "glm: failed"


def test_our_own_bug_keeps_its_traceback(command: Callable[..., None]) -> None:
    """What is not for the user is not hidden from us."""
    command(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        glm_cli.main(["models"])


def test_interrupt_gives_130(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command without a traceback."""
    command(raising(KeyboardInterrupt()))
    assert glm_cli.main(["models"]) == 130
    assert capsys.readouterr().err == "\n"


def test_interrupt_signal_gives_130() -> None:
    """The same in a real process that is interrupted while it reads its standard input."""
    program = (
        "import os, signal, sys\n"
        "from glm_core.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
        "class Input:\n"
        "    buffer = property(lambda self: self)\n"
        "    def read(self, size): signal.raise_signal(signal.SIGINT)\n"
        "sys.stdin = Input()\n"
        "sys.exit(main(['chat', '-']))\n"
    )
    done = run_python("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


@pytest.mark.parametrize(
    ("stop", "status", "message"),
    [(SystemExit(), 0, ""), (SystemExit(3), 3, ""), (SystemExit("port in use"), 1, "port in use\n")],
)
def test_exit_of_a_frontend_is_the_status(
    stop: SystemExit,
    status: int,
    message: str,
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``main`` always returns, and means what ``sys.exit`` means."""
    command(raising(stop))
    assert glm_cli.main(["models"]) == status
    assert capsys.readouterr().err == message


OUTPUTS = {
    "full disk": (lambda: os.open("/dev/full", os.O_WRONLY), 2, "No space left"),
    "pipe whose reader has gone": (lambda: open_pipe_without_reader(), 141, "Broken pipe"),
}
"""Standard outputs that cannot be written: how to open one, the exit status, the system's reason."""

HELP = [[command, "--help"] for command in glm_cli.COMMANDS]
PRINTING = [["--help"], ["--version"], ["models"], ["devices", "--json"], ["plugins"], ["doctor"]]
ANSWERING = [["chat", "hi", "--max-new-tokens", "8"], ["chat", "hi", "--json"], ["run", "cli"]]


def open_pipe_without_reader() -> int:
    """Return the end of a pipe into which nothing can be written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    return write_end


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device stands for a full disk here")
@pytest.mark.parametrize(
    ("arguments", "output", "unbuffered"),
    [
        *((arguments, output, "") for arguments in [*PRINTING, *ANSWERING] for output in OUTPUTS),
        *((arguments, output, "1") for arguments in PRINTING[:3] for output in OUTPUTS),
        *((arguments, "full disk", "") for arguments in HELP),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_output_that_cannot_be_written_is_told_by_every_command(
    arguments: list[str], output: str, unbuffered: str
) -> None:
    """One sentence and a status that is not 0, so that nobody takes half a result for a whole one."""
    open_output, status, reason = OUTPUTS[output]
    descriptor = open_output()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "glm_core", *arguments],
            input=b"hi\n",
            stdout=descriptor,
            stderr=subprocess.PIPE,
            env=clean_environment(PYTHONUNBUFFERED=unbuffered, GLM_LANG="en"),
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        os.close(descriptor)
    lines = done.stderr.decode().splitlines()
    assert "Traceback" not in done.stderr.decode()
    assert done.returncode == status
    assert lines[-1].startswith("glm: standard output cannot be written")
    assert reason in lines[-1]
    if arguments not in ANSWERING:
        assert len(lines) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device stands for a full disk here")
@pytest.mark.parametrize(
    ("arguments", "status"), [(["models"], 0), (["models", "x"], 2), (["chat", "hi"], 0)]
)
def test_notices_that_cannot_be_written_stop_nothing(arguments: list[str], status: int) -> None:
    """Standard error has no result in it; the answer comes, with its status."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "glm_core", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=full,
            env=clean_environment(),
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == status
    assert bool(done.stdout) == (status == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["models"], ["chat", "hello"], ["run", "cli"]], ids=lambda given: given[0]
)
def test_standard_output_on_a_full_disk_is_one_sentence(arguments: list[str], unbuffered: str) -> None:
    """Whatever command prints: no traceback, no complaint of the interpreter at its exit, exit status 2."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "glm_core", *arguments],
            input=b"hello\nhello again\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "GLM_LANG": "en"},
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    told = done.stderr.decode().splitlines()
    assert done.returncode == 2, told
    assert all(line.startswith("glm: ") for line in told)  # before it, which model and device were taken
    assert [line for line in told if "standard output cannot be written" in line] == told[-1:]


def test_pipe_that_is_not_standard_output_is_an_error(command: Callable[..., None]) -> None:
    """A broken socket inside a frontend is not taken for a reader that has gone."""
    program = (
        "import glm_core.cli.models as models, sys\n"
        "def run(arguments): raise BrokenPipeError('socket')\n"
        "models.run = run\n"
        "from glm_core.cli import main\n"
        "sys.exit(main(['models']))\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: socket\n")


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    """A terminal that is not UTF-8 gets escapes instead of a traceback."""
    done = run_glm("--help", environ={"GLM_LANG": "zh", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("\\u7528\\u6cd5")


def test_closed_standard_output_is_no_error() -> None:
    """A command that was started without standard output, as by a service manager, still runs."""
    done = run_python(
        "-c", "import sys; sys.stdout = None; from glm_core.cli import main; sys.exit(main(['--help']))"
    )
    assert (done.returncode, done.stderr) == (0, "")
