"""`python -m uebench.cli`."""

from uebench.cli import script

if __name__ == "__main__":
    script()
