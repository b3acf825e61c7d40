"""Memory budgets that a team keeps in its repository: named plans checked, locked, and compared with what they were."""
