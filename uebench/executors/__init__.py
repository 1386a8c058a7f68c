"""Where jobs run: in this process, on a pool of workers, or on a Ray cluster."""
