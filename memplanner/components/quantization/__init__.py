"""How a frozen base weight is stored and multiplied."""
