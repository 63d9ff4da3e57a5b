"""What of the app's folder can be read, under which kind of name, and for how many releases."""

from pathlib import Path

import pytest

from runtime.limits import Wrong
from runtime.publish import KEPT, hashed, publish, published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dist/assets").mkdir(parents=True)
    (tmp_path / "place").mkdir()
    return tmp_path / "dist"


def release(folder: Path, mark: str, option: str = "", fallback: str = "index.html") -> None:
    """A release whose one asset has that mark in its name, put into the place beside the folder."""
    for old in (folder / "assets").iterdir():
        old.unlink()
    (folder / f"assets/index-{mark}.js").write_text(mark)
    (folder / "index.html").write_text(mark)
    publish(str(folder), fallback, option, folder.parent / "place")


def readable(folder: Path, kind: str = "hashed/assets") -> dict[str, list[str]]:
    """What each link leads to."""
    place = folder.parent / "place"
    links = sorted(path for path in place.iterdir() if path.is_symlink())
    return {link.name: sorted(path.name for path in (link / kind).iterdir()) for link in links}


@pytest.mark.parametrize(
    "name",
    [
        "index-BfRq3kZ2.js",
        "main.8f3f2a1b.chunk.js",
        "app-5XK2LMNP.css",
        "base.3e1f9a0b7c2d.css",
        "index-BfRq3kZ2.js.map",
    ],
)
def test_name_with_a_hash(name: str) -> None:
    """As Vite, webpack, esbuild and Django make it."""
    assert hashed([f"js/{name}", "js/plain.js"]) == {f"js/{name}"}


@pytest.mark.parametrize(
    "name",
    [
        "jquery-3.7.1.min.js",
        "my-component.js",
        "Inter-SemiBoldItalic.woff2",
        "Inter-SemiBold700.woff2",
        "trip-holiday2024.jpg",
        "report-20240101.pdf",
        "photo-DSC01234.jpg",
        "some-long-name-v2.js",
        "logo.svg",
        "page-BfRq3kZ2.html",
    ],
)
def test_name_without(name: str) -> None:
    """What may change below the same name is never kept for a year."""
    assert hashed([name, "index-BfRq3kZ2.js", "logo.png"]) == {"index-BfRq3kZ2.js"}


def test_folder_of_assets() -> None:
    """Some hashes look like a word. Where each file may have one, and one surely does, all do."""
    assets = ["a/index-BfRq3kZ2.js", "a/lazy-QmTbRzXk.js", "a/font-Bold-abcdefgh.woff2"]
    assert hashed(assets) == {*assets}
    assert hashed([*assets, "a/logo.png"]) == {assets[0]}


def test_what_nobody_should_read(folder: Path) -> None:
    """No name with a dot first, no link out of the folder; .well-known and a link within it are read."""
    for name in (".env", ".git/config", "assets/.secret", ".well-known/security.txt", "logo.svg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "etc").symlink_to("/etc")
    (folder / "same.svg").symlink_to("logo.svg")
    (folder / "hidden").symlink_to(".git/config")
    (folder / "gone").symlink_to("nowhere")
    assert set(published(folder)) == {".well-known/security.txt", "logo.svg", "same.svg"}


def test_releases_one_after_the_other(folder: Path) -> None:
    """A new one is readable before it serves; then those before stay behind it, as many as are kept, and no more."""
    release(folder, "aAqR3kZ1")
    release(folder, "bBqR3kZ2", "--next")
    assert readable(folder) == {"0": ["index-aAqR3kZ1.js"], "next": ["index-bBqR3kZ2.js"]}
    release(folder, "bBqR3kZ2")
    assert readable(folder) == {"0": ["index-bBqR3kZ2.js"], "1": ["index-aAqR3kZ1.js"]}
    release(folder, "aAqR3kZ1")
    assert readable(folder) == {"0": ["index-aAqR3kZ1.js"], "1": ["index-bBqR3kZ2.js"]}
    for number in range(KEPT):
        release(folder, f"cCqR3kZ{number}")
    assert len(readable(folder)) == KEPT
    assert len(list((folder.parent / "place/sets").iterdir())) == KEPT
    release(folder, "dDqR3kZ1", "--alone")
    assert readable(folder) == {"0": ["index-dDqR3kZ1.js"]}


def test_first_of_all_serves_at_once(folder: Path) -> None:
    """There is nothing that it could take the place of."""
    release(folder, "aAqR3kZ1", "--next")
    assert readable(folder, "page") == {"0": ["index.html"]}


def test_one_that_was_cut_off_is_made_anew(folder: Path) -> None:
    """What a kill left is no release."""
    half = folder.parent / "place/sets/draft/plain"
    half.mkdir(parents=True)
    (half / "half.js").write_text("half")
    release(folder, "aAqR3kZ1")
    assert not (folder.parent / "place/0/plain").exists()


def test_one_that_was_killed_between_two_links(folder: Path) -> None:
    """Two of them lead to one release then, which takes no older one's place."""
    place = folder.parent / "place"
    for mark in ("aAqR3kZ1", "bBqR3kZ2"):
        release(folder, mark)
    older = (place / "1").readlink()
    (place / "2").symlink_to(older)
    (place / "1").unlink()
    (place / "1").symlink_to((place / "0").readlink())
    release(folder, "cCqR3kZ3")
    lead = [(place / str(number)).readlink() for number in range(3)]
    assert (len(set(lead)), lead[2]) == (3, older)


def test_time_says_what_is_in_it(folder: Path) -> None:
    """An ETag is of time and length: two pages of one length differ in time, and the same page has the same."""
    place, times = folder.parent / "place", []
    for mark in ("aAqR3kZ1", "bBqR3kZ2", "aAqR3kZ1"):
        release(folder, mark)
        times.append((place / "0/page/index.html").stat().st_mtime)
    assert times[0] == times[2] != times[1]


def test_fallback(folder: Path) -> None:
    """A copy of the page that is named, and none where none is."""
    release(folder, "aAqR3kZ1")
    assert (folder.parent / "place/0/fallback.html").read_text() == "aAqR3kZ1"
    release(folder, "aAqR3kZ1", fallback="none")
    assert not (folder.parent / "place/0/fallback.html").exists()


def test_nothing_to_publish(folder: Path) -> None:
    """A folder that isn't there, or has nothing, is a sentence."""
    for path, words in ((folder / "none", "has no such folder"), (folder, "has no file")):
        with pytest.raises(Wrong, match=rf"^STATIC_DIR={path} is wrong: .*{words}"):
            publish(str(path), "", "", folder.parent / "place")
