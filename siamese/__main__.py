"""The command ``siamese``, and ``python -m siamese``: train, score, ask finished runs, describe data, write pages.

Little is imported before it is known what is asked for: the answer to a wrong command line need not wait for torch.
"""

from __future__ import annotations

from siamese.command.main import run

if __name__ == "__main__":
    run()
