"""Sampling methods: one folder each, the registry that lists them, and the table they share."""
