"""Networks that studies share."""
