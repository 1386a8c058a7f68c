"""The components that come with uebench; each module enters through its entry point like a stranger's."""
