"""The models that come with the package, and a random one for tests."""
