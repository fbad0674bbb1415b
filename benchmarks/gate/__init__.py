"""The performance gate: ratios of one run and counted work, held against thresholds in a file."""
