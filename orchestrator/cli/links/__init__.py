"""Commands of links between sites."""
