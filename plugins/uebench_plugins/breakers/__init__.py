"""Built-in breakers, one method per module."""
