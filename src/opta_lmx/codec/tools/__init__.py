"""Tool calls as models write them: one parser per dialect, one default rendering."""
