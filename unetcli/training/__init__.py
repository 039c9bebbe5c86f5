"""Training: batches of patches, the loop, validation, and the record of a run."""
