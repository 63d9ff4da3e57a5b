"""The commands that mend text that is sorted by other rules than when it was written."""

import shlex

import pytest

from backup import collations

DATABASES = collations.databases(lambda _: [["app", "owner", "1", "2"]])
NAMED = collations.named(lambda _: [['pg_catalog."de-x-icu"', "1", "2"]])


@pytest.mark.parametrize("said", [*DATABASES, *NAMED])
def test_nothing_counts_as_good_after_an_error(said: str) -> None:
    """Each command waits for the locks that it needs, and ends at the first statement that fails."""
    commands = [shlex.split(one) for one in said.partition("Mend it with:")[2].split(" && ")]
    for words in commands:
        assert words[:4] == ["docker", "compose", "exec", "-u"]
        assert "ON_ERROR_STOP=1" in words
        assert words[words.index("-c") + 1] == "SET lock_timeout = 0"
    statements = " ".join(word for words in commands for word in words)
    assert statements.index("REINDEX DATABASE CONCURRENTLY") < statements.index("REFRESH")
