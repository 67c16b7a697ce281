"""Floor 1, facts: the only code that writes SQL or touches the store directory."""
