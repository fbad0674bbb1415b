"""The sections of the settings, a file each: `engine.slots` is in `engine.py`."""
