"""``python -m gptpipe`` is ``gptpipe``."""

from __future__ import annotations

from gptpipe.programs import start

if __name__ == "__main__":
    start.filter()
