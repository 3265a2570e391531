"""Links between sites: the front before a service, and certificates of a federation."""
