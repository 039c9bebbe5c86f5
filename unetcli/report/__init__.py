"""Scores and pictures to one self-contained HTML file."""
