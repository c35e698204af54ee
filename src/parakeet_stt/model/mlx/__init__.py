"""The encoder on MLX."""
