"""The static web site of the boards."""
