"""Replace a folder as a whole.

No system call replaces a folder that is not empty. The older folder therefore moves to `.NAME.former` first; a reader
that finds no folder at the usual place reads that one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def current_folder(directory: Path) -> Path:
    """The folder that a reader uses: `directory`, or its former content after a kill during `replace_folder`."""
    former = _former(directory)
    return former if not directory.exists() and former.exists() else directory


def replace_folder(new: Path, directory: Path) -> None:
    """Move the folder `new` to `directory` and delete the older folder there.

    After a kill at any moment, `current_folder` gives the older folder or the new one. Raises OSError; the older folder
    is then back in its place.
    """
    former = _former(directory)
    if directory.exists():
        shutil.rmtree(former, ignore_errors=True)  # left by a kill after the new folder had arrived
        os.replace(directory, former)
    try:
        os.replace(new, directory)
    except OSError:
        if former.exists() and not directory.exists():
            os.replace(former, directory)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _former(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.former") if directory.name else directory
