"""Measurements under the conditions that users have."""
