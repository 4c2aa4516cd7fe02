"""``python -m siamese``: the same as the command ``siamese``."""

from siamese.command.main import run

if __name__ == "__main__":
    run()
