"""The HTTP API: ``glm run api``.

Where to look: `plugin` says what this frontend is; `config` checks its options; `server` binds and runs, by
`glm_http.server`; `app` puts the routes together; `gate` is what every request passes first (checks and
limits by `glm_http.gate`, counting by `metrics` and `limits`); `bodies` and `strict_json` read requests,
`schemas` says what may stand in them, `validation` and `errors` how refusals look, `problem_log` what is
logged. `messages` reads conversations and tools; `generation` joins the answers to one request,
`event_stream` sends them, `token_signal` wakes who waits for any token. The routes are in `chat_route`,
`completions_route`, `models_route`, `adapters_route` (with `adapter_folder`), `original_route` and
`service_routes` (with `readiness`); what they share is in `openai_answers` and `service`; `responses` and
`documentation` are for the OpenAPI document.
"""

__version__ = "0.1.0"
