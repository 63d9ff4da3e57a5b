"""A release: built, put into the two slots one at a time, and gone back from."""
