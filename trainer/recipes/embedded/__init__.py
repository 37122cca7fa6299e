"""The bundle `embedded`."""
