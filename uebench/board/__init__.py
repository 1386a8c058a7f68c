"""From results to ranks, tables and curves."""
