"""Parts of `flows.molecules`: molecules and their scores, the network on SELFIES, its priors."""
