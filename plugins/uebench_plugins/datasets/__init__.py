"""Built-in data sets, one per module."""
