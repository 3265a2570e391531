"""What runs used, from two books: Slurm's accounting and the ledger of quantum jobs."""
