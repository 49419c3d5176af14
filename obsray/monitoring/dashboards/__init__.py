"""The dashboards, one module for each family of nouns."""
