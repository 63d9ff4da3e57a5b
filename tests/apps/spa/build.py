"""Bundles front/ into dist/, the way Vite does: each asset's name has a hash of its content."""

import base64
import hashlib
import re
import shutil
from pathlib import Path

FRONT, DIST = Path("front"), Path("dist")


def asset(name: str, content: str) -> str:
    """Write it, and return the path that a page asks for it by."""
    stem, _, ending = name.rpartition(".")
    mark = ""
    # Some hashes look like a word, and what a test finds must not hang on that.
    while not (re.search(r"\d", mark) and re.search("[a-z][A-Z]", mark)):
        content += "\n"
        mark = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()[:8]
    path = Path("assets", f"{stem}-{mark}.{ending}")
    (DIST / path).write_text(content)
    return f"/{path}"


shutil.copytree(FRONT / "public", DIST)
(DIST / "assets").mkdir()
release = Path("release.txt").read_text().strip() if Path("release.txt").exists() else "none"
lazy = asset("about.js", (FRONT / "about.js").read_text().replace("RELEASE", release))
main = asset("index.js", (FRONT / "main.js").read_text().replace("ABOUT", lazy))
style = asset("index.css", (FRONT / "style.css").read_text() + f"/* {release} */\n" + "a { color: red; }\n" * 200)
page = (FRONT / "index.html").read_text().replace("MAIN", main).replace("STYLE", style).replace("RELEASE", release)
(DIST / "index.html").write_text(page)
# What no server should give away.
(DIST / ".env").write_text("SECRET=dot\n")
(DIST / ".git").mkdir()
(DIST / ".git/config").write_text("SECRET=dot\n")
(DIST / "passwd").symlink_to("/etc/passwd")
(DIST / "etc").symlink_to("/etc")
