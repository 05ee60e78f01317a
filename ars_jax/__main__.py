"""`python -m ars_jax` is `ars-jax`."""

import sys

from ars_jax.cli import main

sys.exit(main())
