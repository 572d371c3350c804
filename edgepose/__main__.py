"""``python -m edgepose``."""

import sys

from .cli import main

sys.exit(main())
