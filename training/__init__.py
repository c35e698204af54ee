"""How the bundled model ``tiny`` was made; see README.md. Not part of the package."""
