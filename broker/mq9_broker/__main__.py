"""`python -m mq9_broker`: the same as `mq9 broker`."""

import sys

from mq9_broker.cli import main

if __name__ == "__main__":
    sys.exit(main())
