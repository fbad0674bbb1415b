"""The command line: thin commands over the rooms below, one small file a group."""
