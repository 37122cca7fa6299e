"""The same stages on many machines, as Ray actors (extra `ray`).

    camera node ┌ CameraHost   Source ─▶ Windower ─▶ WindowBuffer ┐   one a node, many cameras each; bounded
                └──────────────────────────────┬───────────▲──────┘
                              uint8 windows    │           │ scores
                                 object store  ▼           │
    engine node ┌ EngineHost   batches of many hosts ─▶ Engine ┐      one a GPU, or one a node's CPUs
                └──────────────────────────────────────────────┘
    CameraHost ──scores, states, ends (stop and wait)──▶ Shard   Decider ─▶ Ledger ─▶ Publisher   sharded by camera
    driver      Supervisor (places, watches, restarts)  ·  Forwarder (XSUB/XPUB, recovery over all shards)

Who remembers what decides what a death costs:
    engine      nothing: the camera host still holds the windows and sends them to another engine
    camera host nothing: the shard knows the last window decided, and the camera goes on from there elsewhere (a file is
                read again up to it, without scoring; a live camera's numbers and media time go on)
    shard       everything on disk: before a batch is decided, the scores and the state of every filter and alarm before
                them are written (`shardlog`); a new shard decides them again, and what the journal has already is not
                journalled twice. Numbering goes on in the same epoch, so subscribers see neither a hole nor a double.
    driver      all of it ends; the next `stream-detector cluster` goes on from the shards' files, in a new epoch

Everything but `actors`, `archive`, `rayenv` and `supervisor` is plain Python and runs, and is tested, without Ray.
Shards run on the driver's machine, because their files lie there and their sockets stay on its loopback.
"""
