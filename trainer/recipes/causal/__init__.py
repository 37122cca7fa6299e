"""How the preset `causal` of `trainer train` was chosen: candidates.toml, the search, its result in found.json."""
