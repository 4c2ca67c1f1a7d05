"""P-Tuning v2: training, prediction, scores and adapters.

Where to look: `plugin` says what core is told; ``_train_options`` and ``_predict_options`` are the flags,
``_settings`` and ``_keywords`` every name of the original's call, which ``_compat`` is. ``_table_files``
and ``_data`` read and check rows, ``_examples`` makes tokens and batches of them. ``_train`` leads a job:
``_job`` checks which job a directory belongs to, ``_trainable`` is what is trained, ``_objective`` its loss,
``_optimizer`` and ``_loop`` the steps, with ``_guard``, ``_checkpoints``, ``_logs``, ``_processes`` and
``_randomness``. ``_predict`` answers and scores (``_source``, ``_predictions_file``, ``_scores``,
``_retention``); ``_load_checkpoint`` and ``_peft`` are for other tools.
"""

from __future__ import annotations

__version__ = "0.1.0"
