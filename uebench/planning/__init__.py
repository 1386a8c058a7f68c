"""From a suite to a list of jobs: pure, reads nothing but TOML."""
