"""The calls of ChatGLM6Bpkg, with the same names and keywords.

    import glm_core.compat as ChatGLM6Bpkg
    ChatGLM6Bpkg.launch_cli_demo(model=model, tokenizer=tokenizer)

Only the unsafe defaults differ: servers bind to loopback unless a host is given, and
``trust_remote_code`` is accepted and has no effect, because no code is ever loaded with a model.

Each call is carried out by a plugin: the demos and the server by the frontend of that name, the
others by what an installed package declares under the entry-point group ``glm.compat``, where their
keywords are documented.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .candidates import load_declared
from .chat_model import ChatModel
from .config import load_settings
from .errors import ConfigError, PluginError
from .frontends import find_frontend, start_frontend
from .plugins import get_default_host
from .routing import adopt_model, open_model

ENTRY_POINT_GROUP = "glm.compat"
DEFAULT_MODEL = "THUDM/chatglm-6b"


def launch_web_demo(
    model_name_or_path: str = DEFAULT_MODEL,
    trust_remote_code: bool = True,
    model: Any = None,
    tokenizer: Any = None,
    *,
    share: bool = False,
    inbrowser: bool = True,
) -> None:
    """Open the web chat on ``model`` and its ``tokenizer``, or on what is loaded; returns when it is closed.

    ``share`` makes a public link, ``inbrowser`` opens a browser window, ``trust_remote_code`` has no effect.

    Raises:
        PluginError: the frontend is not installed.
    """
    _launch("web", model_name_or_path, model, tokenizer, {"share": share, "inbrowser": inbrowser})


def launch_cli_demo(
    model_name_or_path: str = DEFAULT_MODEL,
    trust_remote_code: bool = True,
    model: Any = None,
    tokenizer: Any = None,
) -> None:
    """Chat in the terminal; arguments as for `launch_web_demo`. ``clear`` and ``stop`` work as before."""
    _launch("cli", model_name_or_path, model, tokenizer, {})


def launch_server(
    model_name_or_path: str = DEFAULT_MODEL,
    trust_remote_code: bool = True,
    model: Any = None,
    tokenizer: Any = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
) -> None:
    """Serve the HTTP API on ``host`` and ``port``; other arguments as for `launch_web_demo`.

    The original took all interfaces where no ``host`` was given.
    """
    _launch("api", model_name_or_path, model, tokenizer, {"host": host, "port": port, "workers": workers})


class _PTuning:
    """The original's module ``ptuning``, with its functions ``ptuning`` and ``load_ptuning_checkpoint``."""

    def __getattr__(self, name: str) -> Any:
        return _find_provided(name, "glm-ptuning", ("ptuning", "load_ptuning_checkpoint"))


ptuning = _PTuning()


def __getattr__(name: str) -> Any:
    """Return ``load_model_on_gpus`` of the CUDA backend.

    Raises:
        PluginError: the CUDA backend is not installed.
    """
    return _find_provided(name, "glm-backend-cuda", ("load_model_on_gpus",))


def _launch(
    frontend: str, model_name_or_path: str, model: Any, tokenizer: Any, wanted: Mapping[str, Any]
) -> None:
    if (model is None) != (tokenizer is None):
        raise ConfigError("pass both model= and tokenizer=, or neither and model_name_or_path=")
    host = get_default_host()
    info = find_frontend(host, frontend)
    options = {option.name: option.default for option in info.options}
    opener: Callable[[], ChatModel]
    if model is None:
        opener = functools.partial(open_model, host, load_settings({"model": model_name_or_path}))
    else:
        opener = functools.partial(adopt_model, host, model, tokenizer)
    start_frontend(info, opener, {**options, **wanted})


def _find_provided(name: str, package: str, known: Sequence[str]) -> Any:
    if name not in known:
        raise AttributeError(f"ChatGLM6Bpkg has no {name!r} here")
    function = load_declared(ENTRY_POINT_GROUP, name, package)
    if function is None:
        raise PluginError(f"{name} is provided by a package that is not installed: pip install {package}")
    return function
