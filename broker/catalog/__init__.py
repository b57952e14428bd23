"""The activatable services: descriptor files, their directories, and their precedence."""
