"""Built-in noises, one method per module."""
