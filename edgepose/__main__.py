"""``python -m edgepose``."""

import sys

from .cli import main

if __name__ == "__main__":  # bench starts new interpreters, which import this file
    sys.exit(main())
