"""Predictions against their truth: opened, paired, and measured in flat memory."""
