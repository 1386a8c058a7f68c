"""What a command does from its start to its end, as functions that return reports: run, export, bench."""
