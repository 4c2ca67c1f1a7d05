"""Trains the demo model's SentencePiece vocabulary on a sample of the corpus.

Every Chinese character stays a piece of its own: otherwise phrases of the templates would become
pieces, and a new wording would fall apart into pieces the model has never seen.
"""

from __future__ import annotations

import random
from pathlib import Path

import sentencepiece
from dialogues import Dialogues
from names import COMMON_CHARACTERS

VOCABULARY_FILE = "ice_text.model"
CONTROL_PIECES = ("<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
# Text may hold these; the last three occur in every prompt with a history.
TEXT_PIECES = ("<n>", "<|tab|>", *(f"<|blank_{count}|>" for count in range(2, 9)), "[Round", "问：", "答：")
CHINESE_PUNCTUATION = "，。！？；：、“”‘’（）《》【】…—·～￥"
# Stands between pieces that must not grow together; it occurs in no text.
_BOUNDARY = "\u2063"


def train_vocabulary(
    directory: Path, rng: random.Random, *, num_samples: int = 60_000, english_pieces: int = 2_400
) -> Path:
    """Write ``ice_text.model`` into ``directory``.

    Args:
        directory: exists; the training text is put there for as long as it is needed.
        rng: draws the text.
        num_samples: conversations to look at.
        english_pieces: how many pieces beyond single characters, bytes and special pieces.
    """
    dialogues = Dialogues()
    text_path = directory / "vocabulary.txt"
    with text_path.open("w", encoding="utf-8") as file:
        for _ in range(num_samples):
            sample = dialogues.sample(rng)
            for line in f"{sample.prompt}\n{sample.answer}".split("\n"):
                file.write(_separate_characters(line) + "\n")
    ascii_characters = "".join(chr(code) for code in range(0x21, 0x7F))
    characters = COMMON_CHARACTERS + CHINESE_PUNCTUATION + ascii_characters
    size = len(characters) + 256 + len(CONTROL_PIECES) + len(TEXT_PIECES) + 4 + english_pieces
    sentencepiece.SentencePieceTrainer.train(
        input=str(text_path),
        model_prefix=str(directory / "ice_text"),
        model_type="unigram",
        vocab_size=size,
        character_coverage=1.0,
        required_chars=characters,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        pretokenization_delimiter=_BOUNDARY,
        control_symbols=list(CONTROL_PIECES),
        user_defined_symbols=list(TEXT_PIECES),
        max_sentencepiece_length=14,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=2,
        minloglevel=2,
    )
    text_path.unlink()
    (directory / "ice_text.vocab").unlink()
    return directory / VOCABULARY_FILE


def _separate_characters(line: str) -> str:
    return "".join(
        f"{_BOUNDARY}{character}{_BOUNDARY}" if character >= "⺀" else character for character in line
    )
