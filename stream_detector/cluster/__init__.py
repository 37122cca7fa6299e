"""The same stages on many machines, as Ray actors (extra `ray`).

In: a configuration, the nodes of a Ray cluster.
Out: the events, scores and states of a run.
Imports: runtime, engines, capture, events, telemetry, reports, models, config, system, types, errors.

    camera node ┌ CameraHost   Source ─▶ Windower ─▶ WindowBuffer ┐   one a node, many cameras each; bounded
                └──────────────────────────────┬───────────▲──────┘
                              uint8 windows    │           │ scores
                                 object store  ▼           │
    engine node ┌ EngineHost   batches of many hosts ─▶ Engine ┐      one a GPU, or one a node's CPUs
                └──────────────────────────────────────────────┘
    CameraHost ──scores, states, ends (stop and wait)──▶ Shard   Decider ─▶ Ledger ─▶ Publisher   sharded by camera
    driver      Supervisor (places, watches, restarts)  ·  Forwarder (XSUB/XPUB, recovery over all shards)

The cost of a death depends on the state that a process holds:
    engine      no state: the camera host still holds the windows and sends them to another engine
    camera host no state: the shard knows the last decided window, and the camera continues after it on another host (a
                file is read again up to it, without scoring; a live camera's numbers and media time continue)
    shard       all state is on disk: before a batch is decided, the scores and the state of every filter and alarm are
                written (`shard_log`); a new shard decides them again, and writes no event to the journal twice. The
                numbering continues in the same epoch, so subscribers see neither a gap nor a repeat.
    driver      the whole run ends; the next `stream-detector cluster` continues from the shards' files, in a new epoch

All modules except `actors`, `archive`, `ray_nodes` and `supervisor` are plain Python and run without Ray. Shards run on
the driver's machine, because their files are there and their sockets use its loopback.
"""
