"""Everything on disk: the store, records, logs and histories."""
