"""Users, sessions, roles; the only issuer of tokens."""
