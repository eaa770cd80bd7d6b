"""Write the checksums and figures of a model into the table: python -m igpt.registry.enter NAME FOLDER

The other values of the model, its license and URL, must be in the table already.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from igpt.files import atomic_path, sha256
from igpt.registry import TABLE


def files_and_figures(folder: Path) -> dict[str, Any]:
    """The part of an entry that follows from the folder, which igpt-export wrote with format=igpt evaluate=true."""
    results = json.loads((folder / "igpt.json").read_text(encoding="utf-8"))["results"]
    return {
        "files": {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()},
        "figures": {name: results[name] for name in ("test/nats_per_token", "test/standard_error")},
    }


def enter(name: str, folder: Path) -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    table[name] |= files_and_figures(folder)
    with atomic_path(TABLE) as temporary:
        temporary.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    enter(sys.argv[1], Path(sys.argv[2]))
