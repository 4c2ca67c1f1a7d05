"""The layout of the page: which components there are and what they are called in each language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from glm_core import ChatModel, ModelInfo
from glm_core.cleaning import clean_text
from glm_core.language import format_count

from ._log import ConversationLog
from ._room import MAX_BYTES
from ._session import WindowState
from ._settings import PageSettings
from ._texts import SAY, Texts

STATIC = Path(__file__).parent / "static"
BASE_MODEL = "base"
ORIGINAL_MAX_LENGTH = 4096
# Fonts that systems have; nothing is fetched.
_SANS = (
    *("system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC"),
    *("Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"),
)
_MONO = (
    "ui-monospace",
    "SFMono-Regular",
    "Consolas",
    "DejaVu Sans Mono",
    "Noto Sans Mono CJK SC",
    "monospace",
)

Parts = dict[str, Any]
"""Components by the name that they have in `Page`."""

PageTexts = Mapping[str, dict[str, Any]]
"""What each component says, as keyword arguments of its class, by the same names."""


@dataclass
class Page:
    """The components that events read or change."""

    session: gr.State
    sidebar: gr.Sidebar
    header: gr.HTML
    log: gr.HTML
    editing: gr.Row
    editing_note: gr.HTML
    cancel_edit: gr.Button
    question: gr.Textbox
    send: gr.Button
    stop: gr.Button
    status: gr.HTML
    undo: gr.Button
    clear: gr.Button
    settings_title: gr.HTML
    system: gr.Textbox
    adapter: gr.Dropdown
    max_length: gr.Slider
    top_p: gr.Slider
    temperature: gr.Slider
    reset: gr.Button
    file_title: gr.HTML
    export_json: gr.Button
    export_markdown: gr.Button
    import_file: gr.HTML
    download: gr.Textbox
    language: gr.Radio
    theme: gr.Button

    @property
    def settings(self) -> list[Any]:
        """What `read_settings` takes, in its order."""
        return [self.system, self.adapter, self.max_length, self.top_p, self.temperature]


def read_settings(
    system: str | None, adapter: str | None, max_length: float, top_p: float, temperature: float
) -> PageSettings:
    """Return the settings that the components hold."""
    chosen = None if not adapter or adapter == BASE_MODEL else adapter.removeprefix("=")
    instructions = clean_text(system or "").strip()
    return PageSettings(instructions, chosen, int(max_length), float(top_p), float(temperature))


def show_settings(page: Page, settings: PageSettings) -> dict[Any, Any]:
    """Return updates that show ``settings``."""
    return {
        page.system: settings.system,
        page.adapter: encode_adapter(settings.adapter),
        page.max_length: settings.max_length,
        page.top_p: settings.top_p,
        page.temperature: settings.temperature,
    }


def describe_adapter_menu(info: ModelInfo, say: Texts) -> dict[str, Any]:
    """Return label and choices of the menu of adapters, as keyword arguments; it is hidden without any."""
    names = [(clean_text(name), encode_adapter(name)) for name in info.adapters]
    choices = [(say("adapter_base"), BASE_MODEL), *names]
    return {"label": say("adapter"), "choices": choices, "visible": bool(names)}


def encode_adapter(name: str | None) -> str:
    """Return the menu's value for an adapter, or for the base model."""
    return BASE_MODEL if name is None else f"={name}"


def build_page(model: ChatModel, say: Texts) -> Page:
    """Lay out the page, inside a ``gr.Blocks``.

    Args:
        model: what answers.
        say: the texts to begin with; `translate_page` changes them.
    """
    info, texts = model.info, build_labels(model, say)
    parts: Parts = {"session": gr.State(WindowState(say, ConversationLog(say, demo=is_demo(info))))}

    with gr.Sidebar(position="right", open=False, elem_id="settings", width=340) as parts["sidebar"]:
        _build_sidebar(parts, info, texts, say)
    with gr.Column(elem_id="glm-chat"):
        _build_chat(parts, texts, ConversationLog(say, demo=is_demo(info)).render_welcome())
    parts["download"] = gr.Textbox(visible=False)
    return Page(**parts)


def _build_sidebar(parts: Parts, info: ModelInfo, texts: PageTexts, say: Texts) -> None:
    """Lay out the settings; adds their components to ``parts``."""
    defaults = PageSettings.from_model(info)
    parts["settings_title"] = gr.HTML(**texts["settings_title"])
    parts["system"] = gr.Textbox(**texts["system"], lines=3, max_lines=8, elem_id="system")
    parts["adapter"] = gr.Dropdown(
        **texts["adapter"], value=encode_adapter(defaults.adapter), elem_id="adapter"
    )
    _build_sliders(parts, info, texts, defaults)
    _add_button(parts, texts, "reset")
    parts["file_title"] = gr.HTML(**texts["file_title"])
    with gr.Row():
        _add_button(parts, texts, "export_json", min_width=80)
        _add_button(parts, texts, "export_markdown", min_width=80)
    # Not gradio's button for uploads, which puts files on the server's disk: this one's script reads the file
    # and sends it as an event.
    parts["import_file"] = gr.HTML(
        **texts["import_file"],
        html_template='<label class="glm-import">${label}<input type="file" accept=".json,.md"></label>',
        js_on_load=(STATIC / "import.js").read_text("utf-8").replace("MAX_BYTES", str(MAX_BYTES)),
        apply_default_css=False,
        elem_id="import-file",
    )
    parts["language"] = gr.Radio(
        **texts["language"],
        choices=[("中文", "zh"), ("English", "en")],
        value=say.language,
        elem_id="language",
    )
    _add_button(parts, texts, "theme")


def _build_chat(parts: Parts, texts: PageTexts, welcome: str) -> None:
    """Lay out header, log, input and status; adds their components to ``parts``."""
    parts["header"] = gr.HTML(**texts["header"], elem_id="glm-header")
    parts["log"] = gr.HTML(
        **texts["log"],
        value=[welcome],
        html_template='<div class="glm-log" role="log" tabindex="0" aria-label="${label}">'
        '${[].concat(value).join("")}</div>',
        js_on_load=(STATIC / "log.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id="glm-log",
    )
    with gr.Row(visible=False, elem_id="editing") as parts["editing"]:
        parts["editing_note"] = gr.HTML("")
        _add_button(parts, texts, "cancel_edit", scale=0, min_width=80)
    with gr.Row(elem_id="composer"):
        parts["question"] = gr.Textbox(
            **texts["question"],
            lines=1,
            max_lines=8,
            autofocus=True,
            container=False,
            elem_id="question",
            scale=1,
        )
        parts["send"] = gr.Button(**texts["send"], variant="primary", elem_id="send", scale=0, min_width=84)
        parts["stop"] = gr.Button(
            **texts["stop"], variant="stop", elem_id="stop", scale=0, min_width=84, visible=False
        )
    with gr.Row(elem_id="glm-foot"):
        parts["status"] = gr.HTML(
            "",
            html_template='<div role="status">${value}</div>',
            apply_default_css=False,
            elem_id="status",
        )
        _add_button(parts, texts, "undo", scale=0, min_width=64)
        _add_button(parts, texts, "clear", scale=0, min_width=64)


def _add_button(parts: Parts, texts: PageTexts, name: str, **more: Any) -> None:
    parts[name] = gr.Button(**texts[name], elem_id=name.replace("_", "-"), size="sm", **more)


def build_labels(model: ChatModel, say: Texts) -> PageTexts:
    """Return what each component says in the language of ``say``, as keyword arguments of its class."""
    info, load = model.info, model.load
    return {
        "header": {"value": _render_header(info, load.slots if load else 0, say)},
        "log": {"label": say("log_label")},
        "question": {"label": say("input_label"), "placeholder": say("input_placeholder")},
        "send": {"value": say("send")},
        "stop": {"value": say("stop")},
        "undo": {"value": say("undo")},
        "clear": {"value": say("clear")},
        "cancel_edit": {"value": say("cancel_edit")},
        "settings_title": {"value": f"<h2>{escape(say('settings'))}</h2>"},
        "system": {"label": say("system"), "placeholder": say("system_placeholder")},
        "adapter": describe_adapter_menu(info, say),
        "max_length": {"label": say("max_length"), "info": say("max_length_info")},
        "top_p": {"label": say("top_p"), "info": say("top_p_info")},
        "temperature": {"label": say("temperature"), "info": say("temperature_info")},
        "reset": {"value": say("reset")},
        "file_title": {"value": f"<h2>{escape(say('conversation'))}</h2>"},
        "export_json": {"value": say("export_json")},
        "export_markdown": {"value": say("export_markdown")},
        "import_file": {"label": say("import")},
        "language": {"label": say("language")},
        "theme": {"value": say("theme")},
    }


def translate_page(page: Page, model: ChatModel, say: Texts) -> dict[Any, Any]:
    """Return updates that change the page to the language of ``say``."""
    updates = {getattr(page, name): gr.update(**texts) for name, texts in build_labels(model, say).items()}
    updates[page.language] = gr.update(label=say("language"), value=say.language)
    return updates


def build_theme() -> gr.themes.Base:
    """Return gradio's theme for the page: quiet colours, system fonts."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
    )


def is_demo(info: ModelInfo) -> bool:
    """Return whether the bundled demo model answers."""
    return info.name == "demo"


def choose_language(accepted: str | None) -> Texts:
    """Return the texts for an ``Accept-Language`` header: Chinese where it comes before English."""
    for entry in (accepted or "").lower().split(","):
        for language in SAY:
            if entry.strip().startswith(language):
                return SAY[language]
    return SAY["en"]


def format_bytes(number: int) -> str:
    """Return a size in short: ``12400000000`` as ``12.4 GB``."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _render_header(info: ModelInfo, slots: int, say: Texts) -> str:
    facts = say(
        "facts", family=info.family, parameters=format_count(info.num_parameters), context=info.context_length
    )
    if info.weight_bytes:
        facts += " · " + say("facts_memory", size=format_bytes(info.weight_bytes))
    if info.devices:
        facts += " · " + " ".join([", ".join(info.devices), info.dtype]).strip()
    if slots > 1:
        facts += " · " + say("facts_slots", count=slots)
    name = clean_text(info.name.rstrip("/").rpartition("/")[2] or info.name)
    return f'<h1 title="{escape(clean_text(info.name))}">{escape(name)}</h1><p>{escape(facts)}</p>'


def _build_sliders(parts: Parts, info: ModelInfo, texts: PageTexts, defaults: PageSettings) -> None:
    """Lay out the original's three sliders with its ranges, wider only where the model needs it."""
    longest = max(ORIGINAL_MAX_LENGTH, info.context_length)
    parts["max_length"] = gr.Slider(
        0, longest, defaults.max_length, step=1, **texts["max_length"], elem_id="max-length"
    )
    parts["top_p"] = gr.Slider(0, 1, defaults.top_p, step=0.01, **texts["top_p"], elem_id="top-p")
    parts["temperature"] = gr.Slider(
        0,
        max(1.0, defaults.temperature),
        defaults.temperature,
        step=0.01,
        **texts["temperature"],
        elem_id="temperature",
    )
