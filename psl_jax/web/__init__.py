"""The local page for tagging and its HTTP interface.

Here: requests, limits, static files. Not here: what is computed (`tagging`), the command
(`commands`).
"""
