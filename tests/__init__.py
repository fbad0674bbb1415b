"""The tests: unit, integration, contract, chaos, e2e; helpers in `support`."""
