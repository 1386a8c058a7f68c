"""Built-in noises, one method a module."""
