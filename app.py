"""Opens the window: `python app.py --help`."""

import sys

from nosnja_gui.ui.app import main

if __name__ == "__main__":
    sys.exit(main())
