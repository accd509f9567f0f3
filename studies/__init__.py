"""Questions answered with numbers. `secateur study` runs them; nothing imports this package."""
