"""Parts of the benchmark `site`: the features of its footage, the simulated sites, the figures."""
