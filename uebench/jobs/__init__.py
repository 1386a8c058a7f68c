"""One function for each kind of job: train a victim, make a noise, train a cell, choose."""
