"""Find what is wrong with a plugin's hooks when it is loaded, not when a hook is called.

pluggy checks names and arguments. It lets through what later misbehaves in silence: a parameter
with a default value, which up to pluggy 1.6 keeps that value whatever the caller says; a
keyword-only parameter, which fails at the call; and a function that contains ``yield``, which
cannot decline, because calling it returns a generator and not ``None``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection

import pluggy

from . import hookspecs
from .errors import PluginError

RUNTIME_HOOKS = ("describe_runtime", "identify_model")
"""What a runtime answers beside ``load_model``; without them it would never be chosen."""


def check_hooks(module: object, trial: pluggy.PluginManager) -> tuple[str, ...]:
    """Return the sorted names of the hooks that a plugin answers, once they are found to be right.

    ``trial`` is a throw-away manager with core's hook specifications: a refused plugin leaves no trace.

    Raises:
        PluginError: it breaks a rule of `glm_core.hookspecs`.
    """
    try:
        trial.register(module)
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    names: list[str] = []
    for caller in trial.get_hookcallers(module) or []:
        implementations = caller.get_hookimpls()
        if caller.has_spec():
            names.append(caller.name)
        elif not all(implementation.optionalhook for implementation in implementations):
            known = sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "glm_spec"))
            close = difflib.get_close_matches(caller.name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"hooks are: {', '.join(known)}"
            # Misspelt, it would just never be called.
            raise PluginError(f"implements {caller.name!r}, which is no hook; {hint}")
        for implementation in implementations:
            _check_shape(caller.name, implementation.function)
    missing = [name for name in RUNTIME_HOOKS if name not in names]
    if "load_model" in names and missing:
        raise PluginError(f"answers load_model but not {' and '.join(missing)}; every runtime answers them")
    if not names:
        raise PluginError("answers no hook; mark its hook functions with @glm_core.hookimpl")
    return tuple(sorted(names))


def check_description(record: object, hooks: Collection[str]) -> None:
    """Refuse a description of what the plugin has no hook for: it would be chosen, and then fail."""
    for field, hook in (("devices", "place"), ("schemes", "quantize"), ("predict_options", "predict")):
        if getattr(record, field, ()) and hook not in hooks:
            raise PluginError(f"describes {field} but does not answer {hook}")


def _check_shape(hook: str, function: Callable[..., object]) -> None:
    if inspect.isgeneratorfunction(function):
        raise PluginError(
            f"{hook} contains yield and so could never decline; return an iterator from a plain function"
        )
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise PluginError(
                f"{hook} takes {str(parameter)!r}; hook parameters are plain: no defaults, no keyword-only "
                "ones, no * or **"
            )
