"""``python -m backends.child``: serve a backend on standard input and output, as in a container."""

from backends.child.server import main

main()
