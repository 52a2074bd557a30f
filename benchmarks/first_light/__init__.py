"""The first minutes on a real GPU, as one command: see docs/first_light.md."""
