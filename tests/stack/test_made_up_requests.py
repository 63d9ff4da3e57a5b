"""Requests made up from the OpenAPI document, and strings that programs trip over, through the whole stack."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.stack.stacks import CLEAN, Stack

# Not what FastAPI itself does otherwise: `Allow` of the first route of a path, for one.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def schemathesis(stack: Stack, folder: Path, examples: int, *phases: str) -> None:
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{stack.address}/openapi.json", "--tls-verify", "false"),
        *("--max-examples", str(examples), "--phases", ",".join(phases), "--checks", CHECKS),
        *("--seed", "1", "--no-color", "--suppress-health-check", "all", "--continue-on-failure"),
    ]
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=800, env={**CLEAN, "PYTHONWARNINGS": "ignore"}
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_schema_holds(stack: Stack, tmp_path: Path) -> None:
    """No 5xx, no status and no body that the document does not tell of."""
    schemathesis(stack, tmp_path, 20, "examples", "coverage", "fuzzing")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_schema_holds_for_hundreds(stack: Stack, tmp_path: Path) -> None:
    """The same with 200 examples a route, and with requests that follow from answers."""
    schemathesis(stack, tmp_path, 200, "examples", "coverage", "fuzzing", "stateful")


NAUGHTY = [
    # Words that some language reads as something else.
    *("undefined", "null", "NaN", "true", "-1", "0x0", "1e1000", "1/0", "CON", "--version", "{}", "[]", "'", '"', "\\"),
    # Code, to whom it isn't quoted.
    *("${HOME}", "{{ 7*7 }}", "%s%n%x", "%00", "\\0", "\\u0000", "`id`", "$(id)", "() { :; }", "../../etc/passwd"),
    *("<script>alert(1)</script>", "' OR 1=1 --", '"; DROP TABLE notes; --'),
    # Control, white space, invisible, right to left, a mark on a mark on a mark.
    *("\t\v\f\r\n", " ", "\x01\x02\x1b[31m\x7f", "\u0085\u2028\u2029", "\ufeffx", "\u200b", "\u00ad", "\u202ex\u202c"),
    "a" + "\u0300\u0301\u0302" * 50,
    # Beyond two bytes, the last of all, no characters at all, private ones, flags, a family joined of four.
    *("\U0001f642", "\U0010ffff", "\ufffe\uffff", "\ue000\ud7ff", "\U0001f1fa\U0001f1f8", "\U0001d57f\U0001d58d"),
    "\u200d".join(("\U0001f469", "\U0001f469", "\U0001f467", "\U0001f466")),
    # The longest, in one byte a character and in four.
    *("x" * 10_000, "\U0001f642" * 10_000),
]


@pytest.mark.parametrize("text", NAUGHTY, ids=lambda text: ascii(text)[:24])
def test_text_comes_back(client: httpx2.Client, text: str) -> None:
    """What is stored is what was sent, to the byte."""
    made = client.post("/notes", json={"text": text})
    assert made.status_code == 201, made.text
    assert client.get(f"/notes/{made.json()['id']}").json()["text"] == text


@pytest.mark.parametrize("text", ["", "\x00", "a\x00b", "x" * 10_001])
def test_text_that_can_not_be_stored(client: httpx2.Client, text: str) -> None:
    """Nothing, NUL and too much are 422."""
    assert client.post("/notes", json={"text": text}).status_code == 422
