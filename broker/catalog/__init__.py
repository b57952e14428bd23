"""What can be started: descriptor files, their directories, and which one wins."""
