"""What each ready flow costs beside the same algorithm as a plain script with Aer."""
