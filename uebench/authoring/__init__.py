"""For authors of plug-ins: the contract, a scaffold, a simulated device."""
