"""The calls of ChatGLM6Bpkg, with the same names and keywords.

    import glm_core.compat as ChatGLM6Bpkg
    ChatGLM6Bpkg.launch_cli_demo(model=model, tokenizer=tokenizer)

Only the unsafe defaults differ: servers bind to loopback unless a host is given, and
``trust_remote_code`` is accepted and has no effect, because no code is ever loaded with a model.

Each call is carried out by a plugin: the demos and the server by the frontend of that name, the
others by what an installed package declares under the entry-point group ``glm.compat``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from .chat_model import ChatModel
from .config import load_settings
from .errors import ConfigError, PluginError
from .frontends import find_frontend, start_frontend
from .plugins import default_host
from .routing import adopt_model, open_model

ENTRY_POINT_GROUP = "glm.compat"
DEFAULT_MODEL = "THUDM/chatglm-6b"
_PACKAGES = {
    "load_model_on_gpus": "glm-backend-cuda",
    "ptuning": "glm-ptuning",
    "load_ptuning_checkpoint": "glm-ptuning",
}


def launch_web_demo(
    model_name_or_path: str = DEFAULT_MODEL,
    trust_remote_code: bool = True,
    model: Any = None,
    tokenizer: Any = None,
    *,
    share: bool = False,
    inbrowser: bool = True,
) -> None:
    """Open the web chat on a model in memory, or on one that is loaded first; returns when it is closed.

    Args:
        model_name_or_path: what to load if no ``model`` is given.
        trust_remote_code: no effect.
        model: a transformers model of ours, such as ``AutoModel.from_pretrained`` returns.
        tokenizer: the tokenizer that belongs to ``model``.
        share: make a public link.
        inbrowser: open a browser window.

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
    """Serve the HTTP API; model arguments as for `launch_web_demo`.

    Args:
        model_name_or_path: see `launch_web_demo`.
        trust_remote_code: no effect.
        model: see `launch_web_demo`.
        tokenizer: see `launch_web_demo`.
        host: address to bind to; the original took all interfaces.
        port: TCP port.
        workers: processes.
    """
    _launch("api", model_name_or_path, model, tokenizer, {"host": host, "port": port, "workers": workers})


def load_model_on_gpus(
    checkpoint_path: str, num_gpus: int = 2, device_map: Mapping[str, int] | None = None, **kwargs: Any
) -> Any:
    """Load a model in half precision over several GPUs; returns a transformers model.

    Args:
        checkpoint_path: directory or hub id.
        num_gpus: how many.
        device_map: module name as in the original to GPU number; ``None`` splits evenly.
        **kwargs: passed on to ``from_pretrained``.

    Raises:
        PluginError: the CUDA backend is not installed.
    """
    function = _provided("load_model_on_gpus")
    return function(checkpoint_path, num_gpus=num_gpus, device_map=device_map, **kwargs)


class ptuning:  # noqa: N801 - the original's module name, used as ChatGLM6Bpkg.ptuning.ptuning(...)
    """The original's ``ptuning`` module."""

    @staticmethod
    def ptuning(**kwargs: Any) -> Any:
        """Train, evaluate or predict with P-Tuning v2; keywords as in the original.

        Raises:
            PluginError: the trainer is not installed.
        """
        return _provided("ptuning")(**kwargs)

    @staticmethod
    def load_ptuning_checkpoint(
        model_name_or_path: str,
        ptuning_checkpoint: str,
        pre_seq_len: int,
        trust_remote_code: bool = True,
        quantization_bit: int | None = None,
    ) -> Any:
        """Load a model with a trained prefix; returns tokenizer, configuration and model.

        Raises:
            PluginError: the trainer is not installed.
        """
        return _provided("load_ptuning_checkpoint")(
            model_name_or_path=model_name_or_path,
            ptuning_checkpoint=ptuning_checkpoint,
            pre_seq_len=pre_seq_len,
            quantization_bit=quantization_bit,
        )


def _launch(
    frontend: str, model_name_or_path: str, model: Any, tokenizer: Any, wanted: Mapping[str, Any]
) -> None:
    if (model is None) != (tokenizer is None):
        raise ConfigError("pass both model= and tokenizer=, or neither and model_name_or_path=")
    host = default_host()
    info = find_frontend(host, frontend)
    options = {option.name: option.default for option in info.options}
    opener: Callable[[], ChatModel]
    if model is None:
        opener = functools.partial(open_model, host, load_settings({"model": model_name_or_path}))
    else:
        opener = functools.partial(adopt_model, host, model, tokenizer)
    start_frontend(info, opener, {**options, **wanted})


def _provided(name: str) -> Callable[..., Any]:
    point = next(iter(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
    if point is None:
        raise PluginError(
            f"{name} is provided by a package that is not installed: pip install {_PACKAGES[name]}"
        )
    try:
        function: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{name} is installed but broken ({error}): install {_PACKAGES[name]} again"
        ) from error
    return function
