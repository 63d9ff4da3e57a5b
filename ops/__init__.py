"""What `./stack` does: a file a verb, a file a concept. Standard library only, Python 3.9 and newer."""
