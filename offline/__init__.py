"""The engine and the base images on a machine that reaches no container registry, from Debian's and PyPI's packages."""
