"""What a deploy leaves as it is, and what it keeps of the releases before."""

import json
import re
import textwrap
from pathlib import Path

from tests.conftest import REPO
from tests.stack.stacks import Repository, edge, run
from tests.stack.test_deploy import AFTER_APP_1, LIFESPAN

UPLOADS = """

from pathlib import Path

from fastapi import Request


@app.put("/uploads/{name}")
async def upload(name: str, request: Request) -> None:
    Path("/uploads", name).write_bytes(await request.body())


@app.get("/uploads/{name}")
async def download(name: str) -> str:
    return Path("/uploads", name).read_text()
"""


def test_settings_that_a_deploy_leaves_alone(repository: Repository) -> None:
    """It says whose settings have changed, and `./stack up` applies those: docs/settings.md has the table."""
    # Of a slot, Traefik, Postgres and the backups.
    changed = {"app-1": "POOL_TIMEOUT=3", "traefik": "RATE_LIMIT=1000", "postgres": "STATEMENT_TIMEOUT=61"}
    changed |= {"backup": "BACKUP_KEEP_DAYS=15"}
    subnet = edge(f"{repository.project}-moved")["EDGE_SUBNET"]
    before = {name: one["Id"] for name, one in repository.containers().items()}

    def anew() -> set[str]:
        return {name for name in changed if repository.containers()[name]["Id"] != before[name]}

    with (repository.folder / ".env").open("a") as env:
        env.write("".join(f"{line}\n" for line in (*changed.values(), f"EDGE_SUBNET={subnet}")))
    done = repository.stack("deploy")
    assert done.returncode == 0, done.stderr
    assert anew() == {"app-1"}
    assert subnet not in run("docker", "network", "inspect", f"{repository.project}_edge")
    said = re.findall(r"(\w+) still runs with its old settings: `\./stack up`", done.stderr)
    assert sorted(said) == ["backup", "postgres", "traefik"]
    done = repository.stack("up")
    assert done.returncode == 0, done.stderr
    assert anew() == set(changed)
    assert subnet in run("docker", "network", "inspect", f"{repository.project}_edge")
    for name, line in changed.items():
        assert any(one.endswith(line) for one in repository.containers()[name]["Config"]["Env"]), name


def test_setting_for_code_that_does_not_serve_yet(repository: Repository) -> None:
    """`up` starts the release that serves, and says what puts the checkout into service."""
    [serving] = set(repository.releases().values())
    release = repository.commit(**{"app__shop.py": "from app.main import app\n"})
    done = repository.stack("up", APP="app.shop:app")
    assert done.returncode in (1, 2)
    assert f"This is release {serving}. The checkout is {release}: `./stack deploy` puts it into" in done.stderr
    assert set(repository.releases().values()) == {serving}


def test_uploads_stay(repository: Repository, tmp_path: Path) -> None:
    """In a folder of the server's, as docs/app.md has it: both slots see them, and a deploy leaves them."""
    [lines] = re.findall(r"^    services:\n(?:      .*uploads.*\n)+", (REPO / "docs/app.md").read_text(), re.MULTILINE)
    run("install", "-d", "-o", "10001", str(tmp_path / "uploads"))
    override = repository.folder / "compose.override.yaml"
    override.write_text(textwrap.dedent(lines).replace("/srv/shop/uploads", str(tmp_path / "uploads")))
    main = (repository.folder / "app/main.py").read_text()
    try:
        for text in (UPLOADS, f"{UPLOADS}# Another release.\n"):
            repository.commit(**{"app__main.py": main + text})
            done = repository.stack("deploy")
            assert done.returncode == 0, done.stderr
            with repository.client() as client:
                if text == UPLOADS:
                    client.put("/uploads/one", content=b"kept").raise_for_status()
                assert {client.get("/uploads/one").text for _ in range(10)} == {'"kept"'}
    finally:
        override.unlink()
        repository.checkout(repository.first)
    assert repository.stack("deploy").returncode == 0


def test_last_five_images_are_kept(repository: Repository) -> None:
    """The last that served, and no other's: neither of those before, nor of what was built and never served."""
    [serving] = set(repository.releases().values())
    name, history = f"{repository.project}-app", repository.folder / ".stack/releases.json"
    made = [f"made-{number}" for number in range(7)]
    for tag in (*made, "never-served"):
        run("docker", "tag", f"{name}:{serving}", f"{name}:{tag}")
    [row] = [one for one in json.loads(history.read_text()) if one["release"] == serving]
    history.write_text(json.dumps([*({**row, "release": tag} for tag in made), row]))
    done = repository.stack("deploy")
    assert done.returncode == 0, done.stderr
    [serving] = set(repository.releases().values())
    kept = set(run("docker", "image", "ls", "--format", "{{.Tag}}", name).split())
    last = list(dict.fromkeys([*made, row["release"], serving]))[-5:]
    assert kept == set(last)
    listed = json.loads(repository.stack("releases", "--json").stdout)
    assert [one["release"] for one in reversed(listed)] == last


def test_what_plain_compose_started_is_gone_back_to(repository: Repository) -> None:
    """A deploy that fails brings back the settings that ran, not those that `./stack` saw last."""
    repository.checkout(repository.first)
    env, main = repository.folder / ".env", repository.folder / "app/main.py"
    text = env.read_text()
    # The first slot is replaced, the second can't be.
    broken = LIFESPAN.format(AFTER_APP_1).replace("from app.main import app", "")
    try:
        env.write_text(f"{text}\nLOG_LEVEL=error\n")
        repository.compose("up", "--detach", "--wait")
        repository.commit(**{"app__main.py": main.read_text() + broken})
        done = repository.stack("deploy")
        assert done.returncode == 1
        assert "as planned" in done.stderr
        for slot in ("app-1", "app-2"):
            assert "STACK_LOG_LEVEL=error" in repository.containers()[slot]["Config"]["Env"]
    finally:
        env.write_text(text)
        repository.checkout(repository.first)
    assert repository.stack("up").returncode == 0
