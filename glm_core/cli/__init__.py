"""The ``glm`` command: one module a command, imported only when that command runs."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import GlmError
from ..language import language

# command: English and Chinese summary
COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "start a frontend: glm run cli, glm run web, glm run api",
        "启动一个前端：glm run cli、glm run web、glm run api",
    ),
    "chat": ("print one streamed answer; for shells and pipes", "在命令行里输出一个回答，适合脚本和管道"),
    "models": ("list the models that are known by name", "列出已知的模型名称"),
    "devices": ("list the devices that a model can run on", "列出可以运行模型的设备"),
    "plugins": ("list the installed plugins and what became of them", "列出已安装的插件及其状态"),
    "doctor": ("check the installation and say what is wrong", "检查安装，指出问题所在"),
}
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 is success, 2 is an error that the user can mend (printed in one line), 130 is Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        return _dispatch(given)
    except GlmError as error:
        print(f"glm: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; nothing can be printed any more, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in ("-V", "--version"):
        from .. import __version__

        print(f"glm {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"glm: unknown command {command!r}; one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return EXIT_USER_ERROR
    status: int = importlib.import_module(f"{__name__}.{command}").run(rest)
    return status


def _help() -> str:
    chinese = language() == "zh"
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {texts[chinese]}" for name, texts in COMMANDS.items()]
    if chinese:
        head, tail = "用法：glm 命令 [选项]\n\n命令：", "每个命令的选项：glm 命令 --help"
    else:
        head, tail = (
            "usage: glm COMMAND [OPTION ...]\n\ncommands:",
            "options of a command: glm COMMAND --help",
        )
    return "\n".join([head, *rows, "", tail])
