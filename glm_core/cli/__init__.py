"""The ``glm`` command: one module a command, imported only when that command runs."""

from __future__ import annotations

import difflib
import importlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TextIO

from ..candidates import load_declared
from ..config import is_switched_on
from ..errors import ConfigError, GlmError
from ..isolation import mark_running_command
from ..language import get_language, print_notice
from ..tracing import enable_tracing

# command: English and Chinese summary
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("start a frontend: glm run cli, web or api", "启动一个前端：glm run cli、web 或 api"),
    "chat": ("print one streamed answer; for shells and pipes", "在命令行里输出一个回答，适合脚本和管道"),
    "quantize": ("write a quantised copy, which loads by itself", "另存量化后的模型，不再需要原模型"),
    "train": ("train an adapter, or go on: glm train ptuning", "训练适配器，或继续训练：glm train ptuning"),
    "predict": ("answer every row of a file and score the answers", "回答文件中的每一行并给回答打分"),
    "bench": ("measure speed and memory; JSON on the last line", "测量速度及内存；最后一行为 JSON"),
    "verify": ("check a model's files against known hashes", "按已知的哈希检查模型文件"),
    "models": ("list the models that are known by name", "列出已知的模型名称"),
    "devices": ("list the devices that a model can run on", "列出可以运行模型的设备"),
    "plugins": ("list the installed plugins and what became of them", "列出已安装的插件及其状态"),
    "plugin": ("write a package for a new plugin: glm plugin new", "新建一个插件包：glm plugin new"),
    "doctor": ("check the installation and say what is wrong", "检查安装，指出问题所在"),
}
ENTRY_POINT_GROUP = "glm.commands"
# Commands that other distributions bring. Their names stand here, so that ``glm --help`` is complete and one
# that is not installed says what to install.
PACKAGES = {
    **dict.fromkeys(("bench", "predict", "quantize", "train"), "glm-jobs"),
    "plugin": '"glm-core[testing]"',
    "verify": '"glm-core[hub]"',
}
TRACE_OPTION = "--trace-hooks"
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141  # as a shell reports every program whose reader has gone: 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 is success, 2 an error that the user can mend (printed in one line), 130 is Ctrl-C, and 141 a reader
    of standard output that has gone. For authors of plugins, ``GLM_DEBUG=1`` adds the traceback of such an
    error, and ``--trace-hooks``, before or after the command, a line about every hook call.
    """
    given, trace = _split_off_trace(list(sys.argv[1:] if arguments is None else arguments))
    _prepare_output()
    # Python's warnings are for developers, who ask for them with -W or PYTHONWARNINGS.
    quiet = warnings.catch_warnings(action=None if sys.warnoptions else "ignore")
    with quiet, enable_tracing(trace), mark_running_command():
        try:
            status = _dispatch(given)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a full disk or a reader that has gone can still be told
        except GlmError as error:
            if is_switched_on("GLM_DEBUG"):
                traceback.print_exc()
            print_notice(str(error))
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return EXIT_INTERRUPTED
        except OSError as error:
            if not _is_output_broken():
                raise  # something else broke: a socket of a frontend, or a file that we should have checked
            _discard_rest(sys.stdout)
            print_notice(f"standard output cannot be written, so the rest is lost: {error.strerror}")
            return EXIT_READER_GONE if isinstance(error, BrokenPipeError) else EXIT_USER_ERROR
        finally:
            try:
                print(end="", file=sys.stderr, flush=True)
            except OSError:  # the status still says how it ended
                _discard_rest(sys.stderr)
    return status


def _split_off_trace(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments without ``--trace-hooks``, which every command takes, and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != TRACE_OPTION]
    return [*rest, *arguments[end:]], len(rest) < end


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_format_help())
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in ("-V", "--version"):
        from .. import __version__

        print(f"glm {__version__}")
        return 0
    if command not in COMMANDS:
        print_notice(_explain_unknown_command(command))
        return EXIT_USER_ERROR
    try:
        if command in PACKAGES:
            return _run_packaged(command, rest)
        status: int = importlib.import_module(f"{__name__}.{command}").run(rest)
    except SystemExit as stop:  # argparse, after printing help or an error; or a frontend
        return _read_exit_status(stop)
    return status


def _run_packaged(command: str, arguments: list[str]) -> int:
    """Run a command of another distribution and return its exit status.

    Raises:
        ConfigError: the distribution is not installed; names the pip line.
        PluginError: it is installed and cannot be imported.
    """
    run = load_declared(ENTRY_POINT_GROUP, command, PACKAGES[command])
    if run is not None:
        status: int = run(arguments)
        return status
    missing = f"glm {command} is not installed: pip install {PACKAGES[command]}"
    if {"-h", "--help"} & set(arguments):  # whoever asks what a command does has made no mistake
        print(missing)
        return 0
    raise ConfigError(missing)


def _read_exit_status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _format_help() -> str:
    chinese = get_language() == "zh"
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {texts[chinese]}" for name, texts in COMMANDS.items()]
    if chinese:
        head = "用法：glm 命令 [选项]\n\n命令："
        tail = (
            "每个命令的选项：glm 命令 --help\n版本：glm --version\n"
            "显示每次插件调用：--trace-hooks（写在命令之前或之后）"
        )
    else:
        head = "usage: glm COMMAND [OPTION ...]\n\ncommands:"
        tail = (
            "options of a command: glm COMMAND --help\nversion: glm --version\n"
            "show every hook call of plugins: --trace-hooks, before or after the command"
        )
    return "\n".join([head, *rows, "", tail])


def _explain_unknown_command(command: str) -> str:
    if command.startswith("-"):
        return f"unknown option {command!r}; the command comes first: glm COMMAND [OPTION ...]"
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(COMMANDS)}"
    return f"unknown command {command!r}; {hint}"


def _prepare_output() -> None:
    """Log to standard error, and never fail on a character that the terminal's encoding lacks."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if is_switched_on("GLM_DEBUG"):
        logging.getLogger("glm").setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_rest(stream: TextIO) -> None:
    """Let what cannot be written go nowhere; the interpreter would try again and fail as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_output_broken() -> bool:
    """Return whether it is standard output that cannot be written, and not another file or socket."""
    try:
        # One line more, which nobody minds before a traceback. A flush would find what is still to be
        # written, but with PYTHONUNBUFFERED there is nothing, and only another write can fail again.
        print(flush=True)
    except OSError:
        return True
    return False
