"""``python -m glm_ptuning``: look at an adapter, or write it in another tool's form."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from glm_core.cleaning import clean_text
from glm_core.errors import GlmError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 2 is an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m glm_ptuning", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what an adapter is, as JSON")
    show.add_argument("adapter", metavar="DIR", type=Path, help="directory of the adapter")
    export = commands.add_parser("export", help="write an adapter in another tool's form")
    export.add_argument("adapter", metavar="DIR", type=Path, help="directory of the adapter")
    export.add_argument("destination", metavar="DST", type=Path, help="directory to write")
    export.add_argument("--format", choices=("peft",), default="peft", help="whose form (peft)")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "show":
            _show(parsed.adapter)
        else:
            from ._peft import export_peft

            export_peft(parsed.adapter, parsed.destination)
            print(parsed.destination)
    except GlmError as error:
        print(f"glm: {error}", file=sys.stderr)
        return 2
    return 0


def _show(directory: Path) -> None:
    import dataclasses

    from glm_runtime_torch.training import read_adapter

    config, encoder = read_adapter(directory)
    facts = dataclasses.asdict(config)
    facts["num_parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
    # Cleaned, because the names in it may be a stranger's.
    print(clean_text(json.dumps(facts, indent=2, ensure_ascii=False, default=str)))


if __name__ == "__main__":
    sys.exit(main())
