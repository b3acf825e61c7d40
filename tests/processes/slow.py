"""A module that takes long to import, as large libraries do."""

import time

time.sleep(20)
