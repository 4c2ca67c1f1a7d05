"""Commands that work on a model for long: ``glm quantize``, ``glm train``, ``glm predict``, ``glm bench``.

Each asks a plugin's hook for reports and shows them as they come. The core knows the commands' names and
finds them through the entry-point group ``glm.commands``.
"""

__version__ = "0.1.0"
