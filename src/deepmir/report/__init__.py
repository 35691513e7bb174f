"""The page that a person's result is read on: one HTML file, pictures inside."""
