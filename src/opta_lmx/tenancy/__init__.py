"""Who may ask: keys, their owners, and what each of them may do."""
