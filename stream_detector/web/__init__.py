"""The web page: live cameras, alarms, replay and tuning in the browser (extra `web`).

In: previews, decisions and events of a run; requests of viewers.
Out: pages, streams, and what viewers write (acknowledgements, verdicts, controls).
Imports: runtime, adaptation, evidence, capture, alarms, events, telemetry, reports, demo, config, system, types, errors

    capture threads ──previews──▶ LiveState ◀──decisions, events── decision thread
                                      │
    server thread, own event loop: History (journal, read-only) · Hub ──SSE──▶ viewers
                                      └── acknowledgements ──DecisionQueue──▶ decision thread

The detector only passes references; the server thread does all work for viewers. `server` is the entry point. The
package is imported only with `--web`, because starlette and uvicorn are optional.
"""
