"""What would happen if: the shipped scheduler on a workload, under a virtual clock."""
