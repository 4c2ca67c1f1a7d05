"""Adapters: trained prefixes that stand beside a model.

Where to look: ``files`` is the format of our own adapters, written and read; ``directory`` looks at a
directory and says what it holds; ``loading`` makes the encoder for a model, or says why the adapter does not
fit; ``fingerprint`` tells whether two checkpoints are the same model.
"""
