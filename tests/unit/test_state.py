"""What the backup service writes down."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO

# In a process of its own: the limit is for all that it writes.
WRITES = """
import resource, sys
from pathlib import Path
from backup import server
server.write(Path(sys.argv[1]), "{}")
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
server.write(Path(sys.argv[1]), '{"at": "2026-11-26"}')
"""


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """One that fails half-way, as on a full disk, leaves what was there, and no draft."""
    file = tmp_path / "state.json"
    done = subprocess.run([sys.executable, "-c", WRITES, str(file)], cwd=REPO, capture_output=True, text=True)
    assert done.stderr.endswith("OSError: [Errno 27] File too large\n")
    assert file.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [file]
