"""Adapters: their files, how they are found, checked and loaded."""
