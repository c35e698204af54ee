"""Run the command line: ``python -m parakeet_stt``."""

from parakeet_stt.cli.main import entry

if __name__ == "__main__":
    entry()
