"""The database: its volumes, backups, versions and migrations."""
