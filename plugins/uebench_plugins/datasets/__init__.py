"""Built-in data sources, one a module."""
