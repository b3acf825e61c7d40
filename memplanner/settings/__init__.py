"""The base of every settings class, what the classes say about themselves, and their errors in plain words."""
