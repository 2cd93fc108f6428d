"""Who may do what: keys, signatures, scopes, and how much of it."""
