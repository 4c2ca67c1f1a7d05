"""glm: run, serve, quantise and fine-tune the ChatGLM family on your own hardware.

    import glm_core
    with glm_core.load("chatglm-6b", device="auto") as model:
        reply, history = model.chat("你好", history=[])

This package is the core: it names the stages, finds the plugins that carry them out and never
imports torch. What stands here is the public surface; everything else may change.
"""

from ._not_set import NOT_SET
from .chat_model import ChatModel
from .errors import (
    AdapterError,
    BusyError,
    CheckpointError,
    ClosedError,
    ConfigError,
    DeviceError,
    GlmError,
    HubError,
    ModelNotFoundError,
    OutOfMemoryError,
    OutsideFolderError,
    PluginError,
    RequestError,
)
from .hookspecs import hookimpl
from .plugins import API_VERSION
from .records import ChatRequest, Delta, Message, ModelInfo, ModelLoad, Sampling, Tool, ToolCall, Usage
from .routing import load, resolve_model

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "AdapterError",
    "BusyError",
    "ChatModel",
    "ChatRequest",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "Delta",
    "DeviceError",
    "GlmError",
    "HubError",
    "Message",
    "NOT_SET",
    "ModelInfo",
    "ModelLoad",
    "ModelNotFoundError",
    "OutOfMemoryError",
    "OutsideFolderError",
    "PluginError",
    "RequestError",
    "Sampling",
    "Tool",
    "ToolCall",
    "Usage",
    "__version__",
    "hookimpl",
    "load",
    "resolve_model",
]
