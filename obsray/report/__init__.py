"""One HTML file about a session, that opens without anything else: ``obsray report``."""
