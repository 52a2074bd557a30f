"""Sampling methods: a registry and one file per method."""
