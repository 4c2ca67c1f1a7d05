"""Downloading checkpoints: Hugging Face's hub or a mirror of it, and ModelScope.

Only the files that `glm_hub.model_files` lists are fetched: no Python code ever, and safetensors alone where
a model offers both forms of weights. This is in the core and not in the torch runtime because a runtime over
another engine needs models as well; the clients are extras, so that the core alone stays small. Locks, small
files and the layout of the cache are the clients' own, which are imported when something is fetched
(``glm-core[hub]``, ``glm-core[modelscope]``).
"""

from __future__ import annotations

from pathlib import Path


def download(repository: str, *, revision: str | None, offline: bool, hub: str) -> Path:
    """Fetch a model's data files, or find them in the cache.

    Args:
        repository: id such as ``THUDM/chatglm-6b``.
        revision: branch, tag or commit.
        offline: only look into the cache.
        hub: ``"huggingface"`` (``HF_ENDPOINT`` names a mirror) or ``"modelscope"``
            (``MODELSCOPE_ENDPOINT``).

    Returns:
        A directory in the hub client's cache.

    Raises:
        HubError: not in the cache while offline, no network, no such model or revision, no
            permission, a file damaged on the way, or the cache cannot be written.
    """
    if hub == "modelscope":
        from ._modelscope import download_from_modelscope

        return download_from_modelscope(repository, revision, offline)
    from ._hugging_face import download_from_hugging_face

    return download_from_hugging_face(repository, revision, offline)
