"""How the preset `causal` of `trainer train` was chosen: candidates.toml, the search, and what it found (found.json)."""
