"""The chat in the browser: ``glm run web``.

Modules: `plugin` answers the hooks; `_serving` checks the options, opens the model and serves;
`_page` lays the page out and `_handlers` answers its events; `_session`, `_settings`, `_answering` and
`_log` are the chat without any page (conversations and their files are `glm_core.conversation`);
`_markdown` and `_math` make text safe to show; `_guard` and `_api` stand in front of the page.
"""

__version__ = "0.1.0"
