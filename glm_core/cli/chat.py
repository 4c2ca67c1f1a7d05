"""``glm chat QUESTION``: one streamed answer on standard output."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence

from ..chat_model import ChatStream
from ..errors import ConfigError, RequestError
from ..language import get_language
from ..plugins import get_default_host
from ..records import ChatRequest, Delta, Option, Sampling, build_messages
from .options import (
    add_flag,
    add_model_options,
    count_places,
    make_command_parser,
    make_model_opener,
    parse_adapters,
    print_notice,
)

MAX_INPUT_BYTES = 4 * 2**20  # more text than any context takes; `cat /dev/zero | glm chat` must end
_NUMBERS = (
    Option("seed", "make sampling repeatable", int),
    Option("temperature", "0 is greedy; higher is more varied", float),
    Option("top_p", "smallest set of tokens whose probability exceeds it", float),
    Option("top_k", "only that many most likely tokens; 0 = all", int),
    Option("repetition_penalty", "above 1 discourages repetition", float),
    Option("max_new_tokens", "tokens of the answer at most", int),
    Option("max_length", "tokens of question and answer together at most", int),
)
_TEXTS = {
    "thinking": ("思考中……", "thinking …"),
    "waiting": ("排队中，前面还有 {} 个请求……", "waiting, requests ahead: {} …"),
    "adapter": ("使用唯一加载的适配器 {}", "answering with adapter {}, the only one that was loaded"),
    "length": (
        "回答达到长度上限而中断，可用 --max-new-tokens、--max-length 或 --context-length 提高",
        "the answer reached the length limit; raise it with --max-new-tokens, --max-length, --context-length",
    ),
    "dropped": (
        "内容太长，最早的 {} 条消息没有交给模型",
        "the conversation is too long; the oldest messages were left out: {}",
    ),
}


def run(arguments: list[str]) -> int:
    """Parse, check, load, answer."""
    parser = _make_parser()
    # Cut by hand: parse_intermixed_args, which lets options stand among the words, forgets the mark.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parsed = parser.parse_intermixed_args(arguments[:end])
    parsed.question += arguments[end + 1 :]
    if not parsed.question and (sys.stdin is None or sys.stdin.isatty()):
        parser.error("pass a question, or - to read it from standard input")
    request = _build_request(parsed)
    if request.adapter is not None and parsed.use_adapter is None:
        print_notice(_say("adapter", request.adapter))
    with make_model_opener(get_default_host(), parsed)() as model, model.stream(request) as deltas:
        last = _print(deltas, as_json=parsed.json)
    if last.finish_reason == "length":
        print_notice(_say("length"))
    if last.usage is not None and last.usage.dropped_messages:
        print_notice(_say("dropped", last.usage.dropped_messages))
    return 0


def _say(key: str, *values: object) -> str:
    return _TEXTS[key][0 if get_language() == "zh" else 1].format(*values)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_command_parser("chat", "Print one streamed answer.", usage="glm chat [OPTION ...] QUESTION")
    parser.add_argument(
        "question", nargs="*", metavar="QUESTION", help="the question; - or nothing reads standard input"
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions before the question")
    parser.add_argument(
        "--use-adapter", metavar="NAME", help="answer with this adapter, if several are loaded"
    )
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end before this; repeatable"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the most likely token")
    for option in _NUMBERS:
        add_flag(parser, option)
    parser.add_argument("--json", action="store_true", help="one JSON object a line; the last has the usage")
    add_model_options(parser)
    return parser


def _build_request(parsed: argparse.Namespace) -> ChatRequest:
    """Build the request; what can be wrong with it is found here, before a model is loaded."""
    sampling = {field.name: getattr(parsed, field.name, None) for field in dataclasses.fields(Sampling)}
    if parsed.greedy:
        sampling["do_sample"] = False
    words: Sequence[str] = parsed.question
    question = _read_standard_input() if words in ([], ["-"]) else " ".join(words)
    return ChatRequest(
        messages=build_messages(None, question, parsed.system),
        sampling=Sampling(**sampling),
        adapter=_choose_adapter(parsed),
        stop=tuple(parsed.stop),
        seed=parsed.seed,
    )


def _choose_adapter(parsed: argparse.Namespace) -> str | None:
    """Return the adapter to answer with: the only one, or of several the one that the user chose."""
    loaded = list(parse_adapters(parsed.adapter))
    chosen: str | None = parsed.use_adapter
    if chosen is None and len(loaded) > 1:
        raise ConfigError(f"several adapters are loaded; choose one with --use-adapter: {', '.join(loaded)}")
    return chosen or next(iter(loaded), None)


def _print(deltas: ChatStream, *, as_json: bool) -> Delta:
    """Print an answer as it comes and return its last delta."""
    last = Delta("")
    try:
        for last in _show_waiting_line(deltas):
            if not as_json:
                print(last.text, end="", flush=True)
            elif last.text:
                print(json.dumps({"text": last.text}, ensure_ascii=False), flush=True)
    except BaseException:
        if last.text and not as_json:  # a message about what went wrong begins a line of its own
            print(flush=True)
        raise
    usage = dataclasses.asdict(last.usage) if last.usage else None
    print(json.dumps({"finish_reason": last.finish_reason, "usage": usage}) if as_json else "", flush=True)
    return last


def _show_waiting_line(deltas: ChatStream) -> Iterator[Delta]:
    """Yield the deltas; until one has text, show a person on standard error what is waited for.

    The line is written over with spaces when it has had its time: every terminal understands that.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield from deltas
        return
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if text != shown:
            print(f"\r{' ' * count_places(shown)}\r{text}", end="", file=sys.stderr, flush=True)
            shown = text

    try:
        show(f"glm: {_say('thinking')}")
        waiting = True
        for delta in deltas:
            if waiting:
                waiting = not delta.text
                position = delta.queue_position
                text = _say("waiting", position) if position else _say("thinking")
                show(f"glm: {text}" if waiting else "")
            yield delta
    finally:
        show("")


def _read_standard_input() -> str:
    if sys.stdin is None:
        raise RequestError("there is no standard input to read the question from; pass it as an argument")
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise RequestError(
            f"standard input is longer than {MAX_INPUT_BYTES:,} bytes; send a shorter question"
        )
    try:
        return data.decode("utf-8-sig").strip()  # PowerShell puts a mark in front
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from error
