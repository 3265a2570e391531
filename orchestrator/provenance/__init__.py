"""What a run leaves behind: its record, its report, and the pictures in it."""
