"""The command line: `main` has the parser, and each command is a module of its own."""
