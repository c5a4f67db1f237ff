"""Options, environment and files made into one Settings."""
