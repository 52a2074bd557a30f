"""Kernels of the LED step. Imports torch and triton only, nothing of SGLang."""
