"""One module for each command, each with one entry point, `run`."""
