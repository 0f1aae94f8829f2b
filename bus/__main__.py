"""``python -m bus`` and the installed command ``bus``."""

from __future__ import annotations

from bus.cli.main import main

if __name__ == "__main__":
    main()
