from typing import Any

import pytest

from ops.sbom import document

FOUND = ["3.14.8", [["SQLAlchemy", "2.1.0"]], [["libc6", "2.42-1+b1", "amd64"]], {"ID": "debian", "VERSION_ID": "13"}]


@pytest.fixture
def bom() -> dict[str, Any]:
    return document("stack-app:latest", FOUND)


def test_every_package_by_its_purl(bom: dict[str, Any]) -> None:
    """Python itself, its packages and Debian's, under the names that databases of weaknesses know."""
    assert [one["purl"] for one in bom["components"]] == [
        "pkg:generic/python@3.14.8",
        "pkg:pypi/sqlalchemy@2.1.0",
        "pkg:deb/debian/libc6@2.42-1%2Bb1?arch=amd64&distro=debian-13",
    ]


def test_what_cyclonedx_requires(bom: dict[str, Any]) -> None:
    """Format, version and number; every reference is unique, and the image depends on all."""
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert bom["serialNumber"].startswith("urn:uuid:")
    references = [one["bom-ref"] for one in bom["components"]]
    assert len(set(references)) == len(references)
    assert bom["dependencies"] == [{"ref": "image", "dependsOn": references}]
