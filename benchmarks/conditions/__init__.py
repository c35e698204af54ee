"""The conditions that users have, as recordings and as situations, and what is lost under them."""
