"""The rows that your revisions are tried on: SQL for the schema as it is at a revision, for every table it makes."""

ROWS = {
    "0001": "INSERT INTO notes (text) VALUES ('buy milk'), ('日本語 🙂')",
}
