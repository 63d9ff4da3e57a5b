from pathlib import Path


def cgroup(root: Path, **files: str) -> Path:
    """A made-up cgroup folder: `cpu__quota="1"` is the file cpu/quota."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root
