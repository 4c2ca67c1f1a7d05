"""``python -m glm_core`` is the ``glm`` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
