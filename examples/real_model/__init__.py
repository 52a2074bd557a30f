"""SmolLM2-135M-Instruct, a real language model to look into: built, served, analysed, traced."""
