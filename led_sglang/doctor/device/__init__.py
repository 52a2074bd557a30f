"""`led-sglang doctor --device`: does a LED step compute the right thing here, and how fast?

Imports torch, Triton and `led_sglang.kernels`, and nothing of SGLang: a checkout and these two are
enough.
"""
