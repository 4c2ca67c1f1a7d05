"""Every error that is for the user, in one tree.

    GlmError
    ├── ConfigError               a setting, option or environment variable is wrong
    ├── ModelNotFoundError        no directory, known name or hub id of that name
    ├── CheckpointError           files are missing, damaged, unsafe or do not fit together
    ├── HubError                  a download failed: no network, no such revision, no place to write
    ├── DeviceError               a device is unknown, absent, or cannot do what was asked
    │   └── OutOfMemoryError      what was asked for does not fit
    ├── PluginError               a plugin is missing, broken, or broke a promise
    ├── RequestError              a chat request is wrong: empty, too long, a bad sampling value
    ├── BusyError                 too many requests wait already; try again later
    ├── AdapterError              an adapter is missing, damaged or made for another model
    │   └── OutsideFolderError    its files are not all inside the folder that they must be in
    └── ClosedError               the model was closed

The message of each says what happened, the value seen, what was expected and what to do. The
command line prints it without a traceback and exits with 2; anything else is our own bug and
keeps its traceback. Each can be built from its message alone, so it crosses processes.
"""

from __future__ import annotations


class GlmError(Exception):
    """Base of all errors that are for the user; catch this to catch them all."""


class ConfigError(GlmError):
    """A setting, option or environment variable has a value that cannot be used."""


class ModelNotFoundError(GlmError):
    """No directory, known name or hub id answers to what was asked for."""


class CheckpointError(GlmError):
    """Files of a checkpoint are missing, damaged, unsafe, or do not fit together."""


class HubError(GlmError):
    """A download failed, or the network was needed and may not be used."""


class DeviceError(GlmError):
    """A device is unknown, absent, or cannot do what was asked of it."""


class OutOfMemoryError(DeviceError):
    """What was asked for does not fit; the message names bytes needed and bytes there."""


class PluginError(GlmError):
    """A plugin is missing, broken, or did something that the hook's contract forbids."""


class RequestError(GlmError):
    """A chat request cannot be answered as it is; nothing was started."""


class BusyError(GlmError):
    """The queue is full: nothing was started, and the same request may succeed later."""


class AdapterError(GlmError):
    """An adapter is unknown, damaged, or was made for another model."""


class OutsideFolderError(AdapterError):
    """A file of an adapter is not inside the folder that adapters may be loaded from."""


class ClosedError(GlmError):
    """The model was closed while, or before, it was asked to do something."""
