"""The server that a restore runs, where no server is needed to see it."""

import subprocess
from pathlib import Path

from backup.instance import Instance


def test_progress_of_a_process_that_has_ended(tmp_path: Path) -> None:
    """Asked what it does, while it ends: that is no reason for a restore to fail."""
    instance = Instance(tmp_path, durable=False)
    with subprocess.Popen(["true"]) as instance.process:
        pass
    assert instance.at() == "starting"
    instance.stop()
