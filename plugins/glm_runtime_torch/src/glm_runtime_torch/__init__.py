"""The shared PyTorch runtime of glm: architectures, checkpoints, tokenizers, formats, engine.

Importing it makes ``transformers.AutoConfig``, ``AutoTokenizer`` and ``AutoModel`` understand
ChatGLM checkpoints with this package's code, whatever ``trust_remote_code`` says. The import
itself loads neither torch nor transformers.
"""

from .huggingface.registration import register_lazily

__version__ = "0.1.0"

register_lazily()
