"""``python -m fusion_lab`` is ``fusion-lab``."""

from fusion_lab.cli import main

raise SystemExit(main())
