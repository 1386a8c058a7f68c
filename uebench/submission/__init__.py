"""Entries of other people: submit, verify, accept, withdraw."""
