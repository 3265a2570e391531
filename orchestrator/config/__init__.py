"""A site as data: configuration files and the environment, read into frozen values."""
