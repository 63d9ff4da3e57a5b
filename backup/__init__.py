"""What runs in the backup container: Barman, what says when, and what proves a backup by restoring it."""
