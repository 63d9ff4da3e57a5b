"""A single-page app with its API, and a browser that has one of its pages open."""

import base64
import contextlib
import hashlib
import http.client
import re
import threading
from pathlib import Path
from typing import Self

import httpx2

from tests.stack.beside import Beside
from tests.stack.load import untrusting

ASSET = re.compile(r"/assets/[\w.-]+")


class Spa(Beside):
    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, "static", "spa", APP_DIR="../spa", APP="web.main:app", STATIC_DIR="/srv/spa/dist", MIGRATE="none"
        )

    def get(self, path: str, **headers: str) -> httpx2.Response:
        with self.client(headers={name.replace("_", "-"): value for name, value in headers.items()}) as client:
            return client.get(path)

    def set(self, **settings: str) -> None:
        """Other settings, in .env, which `./stack` writes to as well."""
        kept = [line for line in self.env_file.read_text().splitlines() if line.partition("=")[0] not in settings]
        added = [f"{name}={value}" for name, value in settings.items() if value]
        self.env_file.write_text("\n".join([*kept, *added, ""]))

    def release(self) -> str:
        return (self.app / "release.txt").read_text().strip()

    def shown(self) -> str:
        """The release whose pages are served."""
        [found] = re.findall("<title>(.*)</title>", self.get("/").text)
        return str(found)


class Tab:
    """A browser's: one page that stays open, and a new one again and again, with all that each refers to."""

    def __init__(self, address: str) -> None:
        self.address, self.ending = address, threading.Event()
        self.failed = list[str]()
        self.fetched = 0

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.browse)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()

    def browse(self) -> None:
        with httpx2.Client(base_url=self.address, verify=untrusting(), timeout=30) as client:
            opened = self.assets(client, "/")
            while not self.ending.wait(0.05):
                for path in [*opened, *self.assets(client, "/deep/link")]:
                    self.fetch(client, path)

    def assets(self, client: httpx2.Client, page: str) -> list[str]:
        """What a page refers to, and what those load in turn."""
        found = ASSET.findall(self.fetch(client, page))
        return [
            *found,
            *(lazy for path in found if path.endswith(".js") for lazy in ASSET.findall(self.fetch(client, path))),
        ]

    def fetch(self, client: httpx2.Client, path: str) -> str:
        self.fetched += 1
        try:
            answer = client.get(path)
        except httpx2.HTTPError as error:
            self.failed.append(f"{path}: {error!r}")
            return ""
        mark = base64.urlsafe_b64encode(hashlib.sha256(answer.content).digest()).decode()[:8]
        right = f"-{mark}." in path if path.startswith("/assets/") else "<title>" in answer.text
        if answer.status_code != 200 or not right:
            self.failed.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        return answer.text


def exact(spa: Spa, path: str, method: str = "GET") -> tuple[int, bytes]:
    """What a path is answered that no client would send so."""
    connection = http.client.HTTPSConnection("localhost", spa.https_port, context=untrusting(), timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
