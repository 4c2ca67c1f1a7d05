"""The terminal chat: ``glm run cli``.

Where to look: `plugin` says what this frontend is; ``_session`` runs the chat; ``_commands`` holds
the slash commands, `glm_core.conversation` the state they change; ``_files`` reads and writes files;
``_view`` is what the session asks of a screen, with the plain one; ``_terminal`` is the other
one, made of ``_prompt`` (the input line), ``_markdown`` (rendering) and ``_live`` (painting);
``_answering`` reads an answer so that Ctrl-C can stop it; ``_texts`` holds every text.
"""

__version__ = "0.1.0"
