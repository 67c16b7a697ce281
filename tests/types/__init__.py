"""What a type checker makes of users' code."""
