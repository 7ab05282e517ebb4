"""The check: inspect, audit, scan, repair, measure, scan again and export, with one decision."""
