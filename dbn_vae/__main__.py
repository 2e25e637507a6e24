"""`python -m dbn_vae` is `dbn-vae`."""

import sys

from dbn_vae.cli import main

sys.exit(main())
