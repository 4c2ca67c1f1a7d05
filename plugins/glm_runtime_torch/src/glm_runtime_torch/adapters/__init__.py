"""Adapters: what is trained beside a model and stands beside it.

Where to look: ``adapter`` is what any kind of adapter is to the engine; ``prefix`` is P-Tuning v2's kind.
``files`` is the format of our own adapters, written and read; ``directory`` looks at a directory and says
what it holds; ``loading`` makes the encoder for a model, or says why the adapter does not fit;
``fingerprint`` tells whether two checkpoints are the same model.
"""
