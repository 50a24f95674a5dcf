"""Records everything in Postgres, off the decision path, and finds it again."""
