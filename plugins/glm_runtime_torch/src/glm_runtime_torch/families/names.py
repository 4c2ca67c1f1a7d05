"""The names of the families, in a module that every command may import: it imports nothing."""

from __future__ import annotations

NATIVE_FAMILIES = ("glm", "glm4", "glm4_moe")
"""Families that transformers defines: GLM-4-9B-hf, GLM-Edge; GLM-4-0414, GLM-Z1; GLM-4.5 to 4.7."""

FAMILY_NAMES = ("chatglm", "chatglm2", "chatglm3", "glm4-9b", *NATIVE_FAMILIES)
"""What ``--family`` can say."""
