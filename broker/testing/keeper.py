"""The broker of a test as a program: ``serve``, then the removal of its runtime directory.

    keeper.py DIRECTORY [OPTION]...

pytest cannot remove the directory if it is killed. The broker ends then, but removes only
its socket there.
"""

from __future__ import annotations

import os
import shutil
import sys

if __name__ == "__main__":
    from broker.cli import main  # the host of a bus imports this file for its path alone

    directory = sys.argv[1]
    # The command's own path: its directory is added to the services' PATH.
    program = os.path.join(os.path.dirname(sys.executable), "dbus-activator")
    sys.argv = [program, "serve", *sys.argv[2:]]
    try:
        main()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
