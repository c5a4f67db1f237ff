"""What leaves the process and what ends it."""
