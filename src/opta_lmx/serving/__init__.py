"""The one path of every model call: gate, prepare, wait, dispatch, account."""
