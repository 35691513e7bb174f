"""``python -m deepmir.cli`` is ``deepmir``."""

import sys

from deepmir.cli import main

sys.exit(main())
