"""What a component is, how it is written, and where it is found. Imports no torch."""
