"""What a QPU is to hpcqc, and the backends it ships."""
