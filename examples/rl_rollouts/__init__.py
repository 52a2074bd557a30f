"""GRPO whose rollouts come from a led-sglang server: with and without LED's own probabilities."""
