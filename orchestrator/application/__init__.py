"""What can be done with flows, jobs and QPUs, as functions with typed results.

Nothing here prints or ends the process; the command line parses, shows and maps errors to exit
codes, and `hpcqc` offers these functions to scripts and notebooks.
"""
