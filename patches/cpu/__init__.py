"""The CPU platform: SGLang on native PyTorch operations."""
