"""Built-in targets, one method a module."""
