"""Built-in target networks, one architecture per module."""
