"""``glm chat QUESTION``: one streamed answer on standard output."""

from __future__ import annotations

import argparse
import json
import sys

from ..errors import RequestError
from ..plugins import default_host
from ..records import Delta, Sampling
from ._options import add_model_options, notice, open_chosen_model

MAX_INPUT_BYTES = 4 * 2**20


def run(arguments: list[str]) -> int:
    """Parse, load, answer."""
    parsed = _parser().parse_args(arguments)
    question = _read_standard_input() if parsed.question == "-" else parsed.question
    sampling = Sampling(
        max_new_tokens=parsed.max_new_tokens,
        temperature=parsed.temperature,
        top_p=parsed.top_p,
        top_k=parsed.top_k,
        do_sample=False if parsed.greedy else None,
    )
    with open_chosen_model(default_host(), parsed) as model:
        deltas = model.chat_stream(
            question,
            system=parsed.system,
            adapter=parsed.use_adapter,
            stop=parsed.stop,
            seed=parsed.seed,
            **{name: value for name, value in vars(sampling).items() if value is not None},
        )
        last = Delta("")
        for last in deltas:
            _write(json.dumps({"text": last.text}, ensure_ascii=False) + "\n" if parsed.json else last.text)
        if parsed.json:
            usage = vars(last.usage) if last.usage else None
            _write(json.dumps({"finish_reason": last.finish_reason, "usage": usage}) + "\n")
        else:
            _write("\n")
            if last.finish_reason == "length":
                notice("the answer reached the length limit; raise it with --max-new-tokens")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glm chat", description="Print one streamed answer.")
    parser.add_argument("question", help="the question; - reads it from standard input")
    parser.add_argument("--system", metavar="TEXT", help="instructions before the question")
    parser.add_argument("--use-adapter", metavar="NAME", help="answer with this loaded adapter")
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end before this; repeatable"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="make sampling repeatable")
    parser.add_argument("--greedy", action="store_true", help="always take the most likely token")
    parser.add_argument("--temperature", metavar="X", type=float)
    parser.add_argument("--top-p", metavar="X", type=float)
    parser.add_argument("--top-k", metavar="N", type=int)
    parser.add_argument("--max-new-tokens", metavar="N", type=int)
    parser.add_argument("--json", action="store_true", help="one JSON object a line; the last has the usage")
    add_model_options(parser)
    return parser


def _read_standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise RequestError(
            f"standard input is longer than {MAX_INPUT_BYTES:,} bytes; send a shorter question"
        )
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
