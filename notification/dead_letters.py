"""The dead letters of this house: `python -m notification.dead_letters list`."""

import sys

from cloud.messaging import dead_letters

if __name__ == "__main__":
    sys.exit(dead_letters.main("notification", sys.argv[1:], "python -m notification.dead_letters"))
