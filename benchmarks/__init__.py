"""What we measure: run from a checkout, not part of the package."""
