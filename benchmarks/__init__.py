"""Measurements of our own; not part of the package."""
