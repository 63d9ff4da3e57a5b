"""`./stack sbom`: what the app's image is made of, as CycloneDX, for programs that look for known weaknesses in it."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any
from urllib.parse import quote

from ops.checks import configuration
from ops.install import ensure_docker
from ops.run import compose

# Runs in the image: every Python package that the app can import, and every package of Debian's.
LIST = """
import importlib.metadata, json, platform, subprocess
python = sorted({(one.name, one.version) for one in importlib.metadata.distributions()})
form = "${Package} ${Version} ${Architecture}\\n"
argv = ["dpkg-query", "--show", "--showformat", form]
debian = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
system = platform.freedesktop_os_release()
print(json.dumps([platform.python_version(), python, [line.split() for line in debian.splitlines()], system]))
"""


def sbom() -> None:
    """Print the document on standard output. Raises Stop where there is no image yet."""
    ensure_docker()
    config = configuration()
    run = ("run", "--rm", "--no-deps", "-T", "--quiet-pull", "app-1", "python", "-c", LIST)
    json.dump(document(config["services"]["app-1"]["image"], json.loads(compose(*run).stdout)), sys.stdout, indent=1)
    print()


def document(image: str, found: list[Any]) -> dict[str, Any]:
    """CycloneDX 1.6 of what LIST printed. https://cyclonedx.org/docs/1.6/json/"""
    version, python, debian, system = found
    distribution = quote(f"{system['ID']}-{system.get('VERSION_ID', system.get('VERSION_CODENAME', 'unknown'))}")
    components = [component("python", version, f"pkg:generic/python@{quote(version)}", "platform")]
    components += [
        component(name, number, f"pkg:pypi/{quote(name.lower())}@{quote(number)}") for name, number in python
    ]
    for name, number, architecture in debian:
        purl = (
            f"pkg:deb/{system['ID']}/{quote(name)}@{quote(number, safe='')}?arch={architecture}&distro={distribution}"
        )
        components.append(component(name, number, purl))
    subject = {"type": "container", "name": image, "bom-ref": "image"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def component(name: str, version: str, purl: str, kind: str = "library") -> dict[str, str]:
    return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}
