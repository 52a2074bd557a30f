"""A tiny reasoning model from nothing: data, SFT, GRPO, and the paper's claims tried on it."""
