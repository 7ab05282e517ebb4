"""The demo: inspect, measure and repair a bundled BadNet model, and write a report."""
