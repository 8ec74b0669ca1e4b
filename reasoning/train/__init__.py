"""Training: one loop over the pool, where a published method is a row of a table (`objective.PRESETS`)."""
