"""A tiny reasoning model from nothing: data, SFT, GRPO, and a reproduction of the paper's claims."""
