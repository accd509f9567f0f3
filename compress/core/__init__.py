"""What every other module stands on: pieces, models, budgets, records and seeds."""
