"""``python -m reasoning`` is the command ``reasoning``."""

import sys

from reasoning.cli import main

sys.exit(main())
