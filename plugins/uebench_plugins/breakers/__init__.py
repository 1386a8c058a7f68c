"""Built-in breakers, one method a module."""
