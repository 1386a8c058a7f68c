"""Ranks, tables and curves from results."""
