"""The demo: a BadNet is inspected, measured, repaired and shown on a page."""
