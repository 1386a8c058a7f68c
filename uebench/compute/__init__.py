"""Tensors only: attacks, training, 8-bit pixels, the audit. Knows no file, plan or board."""
