"""Write complete packages for ``glm plugin new``, from the templates beside this module.

A template ends in ``.tmpl``; ``${package}`` and the like in it are replaced, and in its path
``__package__`` and a leading ``dot_``. ``templates/common`` is a part of every package,
``templates/KIND`` of one kind.
"""

from .names import KINDS, PackageNames, refuse_taken
from .writing import write_package

__all__ = ["KINDS", "PackageNames", "refuse_taken", "write_package"]
