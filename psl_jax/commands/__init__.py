"""One short module for each command: its arguments, and the call of what does the work."""
