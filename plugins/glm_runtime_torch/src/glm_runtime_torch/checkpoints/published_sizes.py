"""Bounds of what a ``config.json`` may say, well above every published model and well below a machine's end.

They refuse a slip of the pen or an attack before anything is built. What a network within them needs must be
in the weight files, and is compared with them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .record_file import limit_integer

MAX_LAYERS = 1024  # published: up to 92
MAX_HEADS = 4096  # up to 96
MAX_HEAD_DIM = 8192  # up to 256
MAX_CHANNELS = 2**20  # of hidden states and inside an MLP: up to 18,432
MAX_VOCABULARY = 2**24  # up to 155,000
MAX_TOKEN_ID = MAX_VOCABULARY - 1
MAX_CONTEXT_LENGTH = 2**24  # what glm lets a user ask for; up to 1,048,576
MAX_EXPERTS = 4096  # up to 256
MAX_PREFIX_LENGTH = 2**16  # the original trained 128

_TokenId = Annotated[int, limit_integer(0, MAX_TOKEN_ID)]
TokenIds = Annotated[
    _TokenId | Annotated[list[_TokenId], Field(min_length=1)],
    Field(description=f"a token id from 0 to {MAX_TOKEN_ID:,} or a list of them"),
]
"""One token that ends an answer, or several."""
