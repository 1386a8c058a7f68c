"""The contract as one line of a plug-in's test: `assert_contract("mine")`."""

from uebench.authoring.check import assert_contract

__all__ = ["assert_contract"]
