"""What the command line shares, and its groups of commands."""
