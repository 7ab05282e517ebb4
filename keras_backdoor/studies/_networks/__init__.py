"""Networks and computations that several studies share."""
