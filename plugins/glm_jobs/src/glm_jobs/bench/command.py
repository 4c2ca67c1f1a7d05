"""``glm bench``: prefill and decode speed, memory, and the share of the memory's bandwidth that is used."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from glm_core.chat_model import ChatModel
from glm_core.cli.options import (
    add_model_options,
    make_command_parser,
    make_model_opener,
    make_number_reader,
    print_json,
    print_notice,
    print_table,
    read_settings,
)
from glm_core.errors import ConfigError
from glm_core.language import get_language
from glm_core.plugins import get_default_host

from . import Cell, Plan, Spread, measure, read_peak_memory

# key: English and Chinese
TEXTS = {
    "prompt": ("prompt tokens", "提示词元数"),
    "batch": ("batch", "并发数"),
    "answer": ("new tokens", "生成词元数"),
    "prefill": ("prefill tokens/s", "预填充 词元/秒"),
    "first_token": ("first token s", "首词元 秒"),
    "decode": ("decode tokens/s", "解码 词元/秒"),
    "stream": ("per request", "每个请求"),
    "share": ("bandwidth", "带宽占用"),
    "model": ("model", "模型"),
    "device": ("device", "设备"),
    "weights": ("weights", "权重"),
    "kv": ("KV cache", "KV 缓存"),
    "peak": ("peak memory of this process", "本进程内存峰值"),
    "read": ("memory bandwidth", "内存带宽"),
    "unknown": ("unknown", "未知"),
    "note": (
        "Medians; in parentheses the slowest and the fastest run. Prefill is measured with one request at a "
        "time, decode while all requests of a batch decode.",
        "数值为中位数，括号内为最慢与最快的一次。预填充在单个请求时测量；解码在所有并发请求同时解码时测量。",
    ),
    "apart": (
        "Where decode shows -, requests of a batch never decoded at the same time, or answers had one token.",
        "解码显示为 - 时，表示并发请求从未同时解码，或回答只有一个词元。",
    ),
    "short": (
        "Some answers ended before {wanted} tokens; the numbers are of what was decoded.",
        "部分回答不足 {wanted} 个词元；数值按实际解码的词元计算。",
    ),
}


def run(arguments: list[str]) -> int:
    """Parse, load, measure, print; the last line of the output is JSON."""
    parsed = _build_parser().parse_args(arguments)
    batches = Plan.batches if parsed.batch is None else _parse_numbers("--batch", parsed.batch)
    plan = Plan(
        _parse_numbers("--prompt-tokens", parsed.prompt_tokens),
        parsed.new_tokens,
        batches,
        parsed.repeat,
        parsed.warmup,
    )
    if parsed.slots is None and parsed.batch is not None:
        parsed.slots = max(batches)
    host, settings = get_default_host(), read_settings(parsed)
    with make_model_opener(host, parsed)() as model:
        if parsed.batch is None:
            plan = _leave_out_large_batches(plan, model)
        cells = measure(model, plan, print_notice)
        peak = read_peak_memory()  # before the backend takes memory to measure the bandwidth
        print_notice("measuring the memory's bandwidth")
        report = _build_report(model, settings.quantize, model.measure_bandwidth(), plan, cells, peak)
    if parsed.json:
        print_json(report)
        return 0
    _print_report(report, plan, cells)
    print(json.dumps(report, ensure_ascii=False))
    return 0


def _build_parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = make_command_parser("bench", "Measure prefill and decode speed, and memory.")
    parser.add_argument(
        "--prompt-tokens",
        metavar="N[,N]",
        default=",".join(map(str, plan.prompt_tokens)),
        help="lengths of the question (128,512)",
    )
    parser.add_argument(
        "--new-tokens",
        metavar="N",
        type=make_number_reader(int),
        default=plan.new_tokens,
        help="length of the answer, or of its part that a whole batch decodes together (64)",
    )
    parser.add_argument(
        "--batch", metavar="N[,N]", help="requests at the same time (those of 1,4,8 that the memory takes)"
    )
    whole = make_number_reader(int)
    parser.add_argument("--repeat", metavar="N", type=whole, default=plan.repeat, help="runs of each (3)")
    parser.add_argument(
        "--warmup", metavar="N", type=whole, default=plan.warm_up, help="runs before that do not count (1)"
    )
    parser.add_argument("--json", action="store_true", help="nothing but JSON")
    add_model_options(parser)
    return parser


def _parse_numbers(flag: str, text: str) -> tuple[int, ...]:
    read = make_number_reader(int)
    try:
        return tuple(read(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise ConfigError(
            f"{flag} {text[:40]!r}: expected whole numbers with commas between them, such as 1,4,8"
        ) from None


def _leave_out_large_batches(plan: Plan, model: ChatModel) -> Plan:
    """Leave out the batches that nobody asked for and that the model has no slots for."""
    slots = model.load.slots if model.load else max(plan.batches)
    fitting = tuple(batch for batch in plan.batches if batch <= slots) or (1,)
    for batch in sorted(set(plan.batches) - set(fitting)):
        print_notice(
            f"batch {batch} is left out, the KV cache has {slots} slots; --batch {batch} with a smaller "
            "--context-length makes room"
        )
    return replace(plan, batches=fitting)


def _build_report(
    model: ChatModel,
    scheme: str,
    bandwidth: float | None,
    plan: Plan,
    cells: Sequence[Cell],
    peak: int | None,
) -> dict[str, Any]:
    info, load = model.info, model.load
    return {
        "model": info.name,
        "family": info.family,
        "num_parameters": info.num_parameters,
        "device": info.devices[0] if info.devices else "",
        "dtype": info.dtype,
        "quantize": scheme,
        "python": platform.python_version(),
        "weight_bytes": info.weight_bytes or None,
        "kv_bytes": load.kv_bytes if load else None,
        "slots": load.slots if load else None,
        "peak_memory_bytes": peak,
        "bandwidth_bytes_per_second": bandwidth,
        "new_tokens": plan.new_tokens,
        "results": [
            {
                **_round_numbers(asdict(cell)),
                "steps_per_second": _round_numbers(cell.steps_per_second),
                "bandwidth_share": _round_numbers(cell.compute_bandwidth_share(info.weight_bytes, bandwidth)),
            }
            for cell in cells
        ],
    }


def _round_numbers(value: Any) -> Any:
    """Round the numbers within a JSON value to six digits; more are never measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _round_numbers(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round_numbers(member) for member in value]
    return value


def _print_report(report: dict[str, Any], plan: Plan, cells: Sequence[Cell]) -> None:
    chinese = get_language() == "zh"
    text = {key: texts[chinese] for key, texts in TEXTS.items()}

    def format_known(value: float | None, form: Callable[[float], str]) -> str:
        return form(value) if value else text["unknown"]

    facts = {
        "model": f"{report['model']} ({report['family']}, {report['num_parameters'] / 1e6:,.0f} M)",
        "device": report["device"],
        "weights": format_known(report["weight_bytes"], _format_size),
        "kv": format_known(report["kv_bytes"], _format_size),
        "peak": format_known(report["peak_memory_bytes"], _format_size),
        "read": format_known(report["bandwidth_bytes_per_second"], lambda rate: f"{_format_size(rate)}/s"),
    }
    separator = "：" if chinese else ": "
    for key, value in facts.items():
        print(f"{text[key]}{separator}{value}")
    print()
    keys = ("prompt", "batch", "answer", "prefill", "first_token", "decode", "stream", "share")
    rows = [
        _format_row(cell, result["bandwidth_share"], text["unknown"])
        for cell, result in zip(cells, report["results"], strict=True)
    ]
    print_table([text[key] for key in keys], rows)
    print()
    print(text["note"])
    if any(cell.decode is None for cell in cells):
        print(text["apart"])
    if any(cell.answer_tokens[0] < plan.new_tokens for cell in cells):
        print(text["short"].format(wanted=plan.new_tokens))


def _format_row(cell: Cell, share: float | None, unknown: str) -> tuple[str, ...]:
    low, high = cell.answer_tokens
    return (
        str(cell.prompt_tokens),
        str(cell.batch),
        str(low) if low == high else f"{low}-{high}",
        _format_spread(cell.prefill, 1),
        _format_spread(cell.first_token, 3),
        _format_spread(cell.decode, 2),
        "-" if cell.steps_per_second is None else f"{cell.steps_per_second:.2f}",
        unknown if share is None else f"{share:.0%}",
    )


def _format_spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    middle = f"{spread.median:,.{digits}f}"
    if len(spread.runs) == 1:
        return middle
    return f"{middle} ({spread.low:,.{digits}f}-{spread.high:,.{digits}f})"


def _format_size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
