"""Many questions: one for each record."""
