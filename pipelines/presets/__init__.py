"""Parameters of ready runs: one JSON file a data set, read by `pipelines.preset`."""
