"""The local page for tagging and its HTTP interface.

Here: requests, limits, static files. Not here: the tagging itself (`tagging`), the command
(`commands`).
"""
