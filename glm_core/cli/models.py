"""``glm models``: the models that are known by name."""

from __future__ import annotations

import dataclasses

from ..models import list_known_models
from ..plugins import get_default_host
from .options import make_command_parser, print_json, print_table


def run(arguments: list[str]) -> int:
    """List them; never touches the network."""
    parser = make_command_parser("models", "List the models that are known by name.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    cards = list_known_models(get_default_host())
    if parsed.json:
        print_json([dataclasses.asdict(card) for card in cards])
        return 0
    rows = []
    for card in cards:
        origin = "installed" if card.path else card.hub_id or card.modelscope_id or "a plugin"
        rows.append((card.name, origin, card.summary))
    print_table(("name", "from", "what it is"), rows)
    print("\n--model also takes a directory with a checkpoint, a file, or a hub id such as THUDM/chatglm-6b.")
    return 0
