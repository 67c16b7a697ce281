"""A run as one HTML file that can be mailed: no script, no request, everything that a step could put in escaped."""
