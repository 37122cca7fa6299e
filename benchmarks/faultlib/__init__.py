"""The fault campaign's parts: detectors to break, and the ways of breaking them. `benchmarks.faults` runs them."""
