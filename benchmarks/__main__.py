"""`python -m benchmarks` is the comparison."""

import sys

from benchmarks.compare import main

sys.exit(main())
