"""Who answers behind a gateway: `python -m benchmarks.gateways`."""
