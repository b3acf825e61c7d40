"""`python -m memplanner`."""

import sys

from memplanner.cli.main import main

sys.exit(main())
